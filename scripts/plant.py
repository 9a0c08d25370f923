#!/usr/bin/env python3
"""Plants a text in an HDF5 file, for the tests of `paraffin audit`: plant.py KIND FILE TEXT

KIND is attribute (a new one), value (of the attribute `savetodir`, which is otherwise empty), dataset (of strings),
name (of an empty group), link (the path of a soft link), compressed (a string dataset through deflate), or freed
(written, deleted again: the bytes stay in the file's free space).
"""

import sys

import h5py
import numpy as np


def main(kind: str, path: str, text: str) -> None:
    with h5py.File(path, "r+") as file:
        match kind:
            case "attribute":
                file["coords"].attrs["note"] = text
            case "value":
                file["coords"].attrs["savetodir"] = text
            case "dataset":
                file["notes"] = np.array([text.encode()])
            case "name":
                file.create_group(text)
            case "link":
                file["elsewhere"] = h5py.SoftLink("/" + text)
            case "compressed":
                file.create_dataset("notes", data=np.array([text.encode()] * 100), chunks=(100,), compression="gzip")
            case "freed":
                file["freed"] = np.array([text.encode()])
                file.flush()
                # Something after it, or closing the file would cut the free space off.
                file["coords"].attrs["savetodir"] = " " * 2000
                file.flush()
                del file["freed"]
            case _:
                sys.exit(__doc__)
    if kind == "freed":
        with open(path, "rb") as file:
            assert text.encode() in file.read(), "HDF5 has given the space away"


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
