"""Reads a patches file as its readers do, and prints the quality of its tiles: used by tests/tissue.rs."""

import sys

import h5py

with h5py.File(sys.argv[1], "r") as f:
    qc = f["qc"]
    attrs = qc.attrs
    print(f"columns {' '.join(attrs['columns'])}; {qc.dtype}; mpp {attrs['mpp']:g} and {attrs['mpp_blur']:g}")
    # TRIDENT's read_assets_from_h5 takes every data set and its attributes; CLAM and torchmil take coords by name.
    assets = {key: f[key][:] for key in f.keys()}
    attributes = {key: dict(f[key].attrs) for key in f.keys()}
    assert assets["coords"].shape == (len(qc), 2) and assets["coords"].dtype == "int64"
    assert attributes["coords"]["patch_size"] == 32
    for row in assets["qc"]:
        print(*(repr(float(v)) for v in row))
