#!/usr/bin/env python3
"""Makes the small DICOM slides in testdata/dicom/ and its manifest.

The pixels are crops of testdata/CMU-1-Small-Region.svs (CC0); pydicom writes the containers. The golden values are what
pydicom decodes, frame by frame, put together here; OpenSlide must agree wherever it opens the series. Names, numbers and
UIDs in the headers are made up.

JPEG-LS needs what scripts/requirements-dev.txt leaves out, in an environment of its own: pyjpegls 1.5.1 (CharLS) encodes, and
pylibjpeg 2.1.0 with pylibjpeg-libjpeg 2.5.0 (another implementation; GPL) decodes what is expected.

    python3 -m venv ENV
    ENV/bin/pip install -r scripts/requirements-dev.txt
    ENV/bin/pip install pyjpegls==1.5.1 pylibjpeg==2.1.0 pylibjpeg-libjpeg==2.5.0
    ENV/bin/python scripts/make_dicom_testdata.py
"""

import hashlib
import pathlib
import re
import shutil

import jpeg_ls
import numpy as np
import openslide
import pydicom
import tifffile
from imagecodecs import jpeg2k_encode
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels import convert_color_space, pixel_array
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.sequence import Sequence

from make_testdata import (DERIVED, JPEG_TOLERANCE, SOURCE, TESTDATA, Jpeg, blocks_of, crop, manifest, mean_rgb,
                           openslide_levels, reduced)

FOLDER = TESTDATA / "dicom"
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
JPEG_BASELINE, EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
JPEG2000_LOSSLESS, JPEG2000 = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"
JPEGLS_LOSSLESS, JPEGLS, RLE = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.5"
# The same picture in codings without loss.
LOSSLESS_ALIKE = ("jpegls_planes", "jpegls_lines", "jpegls_pixels", "rle")
MAX_TOTAL_BYTES = 300_000
MPP = 0.499


def jpegls(block, interleave, near):
    """One frame. interleave: 0 by component, 1 by line, 2 by pixel."""
    samples = 1 if block.ndim == 2 else 3
    ordered = block.transpose(2, 0, 1) if samples == 3 and interleave == 0 else block
    mode = interleave if samples == 3 else 0
    return bytes(jpeg_ls.encode_buffer(ordered.tobytes(), *block.shape[:2], samples, 8, near, mode))


class Series:
    """Writes instances of one made-up series."""

    count = 0

    def __init__(self, folder):
        Series.count += 1
        self.folder = FOLDER / folder
        self.uid = f"1.2.826.0.1.3680043.10.999.{Series.count}"
        self.instances = 0

    def instance(self, name, picture, *, kind="VOLUME", resampled=False, factor=1, px=96, colour="420", table="bot",
                 fragments=1, syntax=JPEG_BASELINE, photometric=None, planar=0, missing=None, part=None, planes=1,
                 interleave=2, near=0):
        """One file. part: (number, parts, first frame, end frame) of a concatenation; interleave, near: JPEG-LS."""
        self.instances += 1
        height, width = picture.shape[:2]
        grey = picture.ndim == 2
        columns, rows = -(-width // px), -(-height // px)
        stack = [picture] + [255 - picture] * (planes - 1)
        if planes > 1:  # the sharp one in the middle
            stack = [stack[1 if i != (planes - 1) // 2 else 0] for i in range(planes)]
        blocks = [b for plane in stack for b in blocks_of(plane, px, "edge")]
        places = [(i % columns, i // columns) for i in range(columns * rows)] * planes
        keep = [i for i in range(len(blocks)) if i not in (missing or ())]
        if part:
            keep = keep[part[2]:part[3]]

        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = syntax
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = WHOLE_SLIDE
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"{self.uid}.2.{self.instances}"
        ds.file_meta.ImplementationClassUID = "1.2.826.0.1.3680043.10.999"
        ds.ImageType = ["DERIVED", "PRIMARY", kind, "RESAMPLED" if resampled else "NONE"]
        ds.StudyInstanceUID, ds.SeriesInstanceUID = self.uid + ".1", self.uid
        ds.FrameOfReferenceUID = self.uid + ".3"
        ds.StudyDate, ds.PatientName, ds.PatientID = "20010203", "Made-up^Name", ""
        ds.Modality, ds.InstanceNumber, ds.ContainerIdentifier = "SM", self.instances, "MADE-UP-1"
        specimen = Dataset()
        specimen.SpecimenIdentifier = "MADE-UP-1-A"
        ds.SpecimenDescriptionSequence = Sequence([specimen])
        ds.SamplesPerPixel = 1 if grey else 3
        ds.PhotometricInterpretation = photometric or ("MONOCHROME2" if grey else "YBR_FULL_422")
        if not grey:
            ds.PlanarConfiguration = planar
        ds.Rows = ds.Columns = px
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.PixelRepresentation = 7, 0
        ds.NumberOfFrames = len(keep)
        ds.TotalPixelMatrixColumns, ds.TotalPixelMatrixRows = width, height
        ds.TotalPixelMatrixFocalPlanes = planes
        ds.ImagedVolumeWidth, ds.ImagedVolumeHeight = width * factor * MPP / 1000, height * factor * MPP / 1000
        measures = Dataset()
        measures.PixelSpacing = [MPP * factor / 1000] * 2
        shared = Dataset()
        shared.PixelMeasuresSequence = Sequence([measures])
        ds.SharedFunctionalGroupsSequence = Sequence([shared])
        path = Dataset()
        path.OpticalPathIdentifier, path.ObjectiveLensPower = "1", 20
        ds.OpticalPathSequence = Sequence([path])
        ds.DimensionOrganizationType = "TILED_FULL" if missing is None else "TILED_SPARSE"
        if missing is not None:
            groups = []
            for i in keep:
                position = Dataset()
                position.ColumnPositionInTotalImagePixelMatrix = places[i][0] * px + 1
                position.RowPositionInTotalImagePixelMatrix = places[i][1] * px + 1
                group = Dataset()
                group.PlanePositionSlideSequence = Sequence([position])
                groups.append(group)
            ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
        if part:
            ds.ConcatenationUID, ds.SOPInstanceUIDOfConcatenationSource = self.uid + ".4", self.uid + ".5"
            ds.InConcatenationNumber, ds.InConcatenationTotalNumber = part[0], part[1]
            ds.ConcatenationFrameOffsetNumber = part[2]

        frames = [blocks[i] for i in keep]
        if ds.PhotometricInterpretation == "YBR_FULL" and syntax != JPEG_BASELINE:
            frames = [convert_color_space(b, "RGB", "YBR_FULL") for b in frames]
        if syntax not in (EXPLICIT, IMPLICIT):
            if syntax == JPEG_BASELINE:
                frames = [Jpeg("grey" if grey else colour, tables=False, quality=50).encode(b)[0] for b in frames]
            elif syntax in (JPEGLS_LOSSLESS, JPEGLS):
                frames = [jpegls(b, interleave, near) for b in frames]
            elif syntax == RLE:
                about = {key: ds[key].value for key in ("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
                                                       "BitsStored", "PixelRepresentation", "Rows", "Columns")}
                about = {re.sub("(?<!^)([A-Z])", r"_\1", key).lower(): value for key, value in about.items()}
                frames = [RLELosslessEncoder.encode(b, number_of_frames=1, planar_configuration=0, **about,
                                                    encoding_plugin="pydicom") for b in frames]
            else:
                exact = syntax == JPEG2000_LOSSLESS
                how = {"reversible": True} if exact else {"level": 32}
                frames = [jpeg2k_encode(b, codecformat="j2k", mct=True, resolutions=4, **how) for b in frames]
            if table == "eot":
                ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(frames)
            else:
                ds.PixelData = encapsulate(frames, fragments_per_frame=fragments, has_bot=table == "bot")
        else:
            data = b"".join((b.transpose(2, 0, 1) if planar else b).tobytes() for b in frames)
            ds.PixelData = data + b"\0" * (len(data) % 2)
        self.folder.mkdir(parents=True, exist_ok=True)
        ds.save_as(self.folder / name, implicit_vr=syntax == IMPLICIT, little_endian=True, enforce_file_format=True)
        return self


def make_series(source):
    """(folder, file that the manifest names, purpose, does OpenSlide open it, lossless)"""
    large = crop(source, 640, 1380, 349, 283)
    small = crop(source, 700, 1900, 131, 117)
    grey = np.ascontiguousarray((small.astype(np.uint32).sum(2) // 3).astype(np.uint8))
    native = {"syntax": EXPLICIT, "photometric": "RGB", "px": 48}

    s = Series("three_levels")
    s.instance("a_half.dcm", reduced(large, 2, False), resampled=True, factor=2)
    s.instance("b_full.dcm", large)
    s.instance("c_quarter.dcm", reduced(large, 4, False), resampled=True, factor=4)
    # Pictures that must never be read, in flat, unmistakable colours.
    s.instance("d_label.dcm", np.full((64, 64, 3), (255, 0, 0), np.uint8), kind="LABEL", px=64)
    s.instance("e_overview.dcm", np.full((64, 64, 3), (0, 0, 255), np.uint8), kind="OVERVIEW", px=64)
    s.instance("f_thumbnail.dcm", np.full((48, 48, 3), (0, 255, 0), np.uint8), kind="THUMBNAIL", resampled=True, px=48)
    yield "three_levels", "c_quarter.dcm", "three levels, label, overview and thumbnail: a file each", True, False
    Series("eot").instance("eot.dcm", small, table="eot", px=64)
    yield "eot", "eot.dcm", "extended offset table, JPEG 4:2:0", True, False
    Series("no_table").instance("no_table.dcm", small, table="none", colour="422", px=64)
    yield "no_table", "no_table.dcm", "empty basic offset table, JPEG 4:2:2", True, False
    Series("fragments").instance("fragments.dcm", small, fragments=2, px=64)
    yield "fragments", "fragments.dcm", "two fragments a frame, basic offset table", None, False
    Series("fragments_no_table").instance("fragments.dcm", small, fragments=2, table="none", px=64)
    yield "fragments_no_table", "fragments.dcm", "two fragments a frame, no offset table", None, False
    Series("sparse").instance("sparse.dcm", large, missing=(0, 3, 9), px=96)
    yield "sparse", "sparse.dcm", "TILED_SPARSE, three frames missing: background", True, False
    s = Series("concatenation")
    s.instance("1.dcm", small, part=(1, 2, 0, 4), px=48).instance("2.dcm", small, part=(2, 2, 4, 9), px=48)
    yield "concatenation", "2.dcm", "one level in two files (concatenation)", None, False
    Series("rgb_jpeg").instance("rgb.dcm", small, colour="rgb", photometric="RGB", px=64)
    yield "rgb_jpeg", "rgb.dcm", "RGB JPEG: ids 0 1 2, only the header says that it is RGB", True, False
    Series("ybr_full").instance("ybr.dcm", small, colour="444", photometric="YBR_FULL", px=64)
    yield "ybr_full", "ybr.dcm", "JPEG 4:4:4, YBR_FULL", False, False
    Series("grey_jpeg").instance("grey.dcm", grey, px=64)
    yield "grey_jpeg", "grey.dcm", "grey JPEG (MONOCHROME2)", False, False
    Series("native").instance("native.dcm", small[:90, :80], **native)
    yield "native", "native.dcm", "uncompressed RGB, explicit VR", True, True
    Series("native_planes").instance("planes.dcm", small[:40, :48], planar=1, **native)
    yield "native_planes", "planes.dcm", "uncompressed RGB in planes", False, True
    Series("implicit").instance("implicit.dcm", small[:90, :70], missing=(1,), **native | {"syntax": IMPLICIT})
    yield "implicit", "implicit.dcm", "uncompressed RGB, implicit VR, TILED_SPARSE", False, True
    Series("focal_planes").instance("planes.dcm", small, planes=3, px=64)
    yield "focal_planes", "planes.dcm", "three focal planes: the middle one counts", False, False
    for name, syntax, photometric, exact in (("jpeg2000", JPEG2000, "YBR_ICT", False),
                                             ("jpeg2000_lossless", JPEG2000_LOSSLESS, "YBR_RCT", True)):
        picture = small if not exact else small[:70, :80]
        Series(name).instance("j2k.dcm", picture, syntax=syntax, photometric=photometric, px=64)
        yield name, "j2k.dcm", f"JPEG2000, {photometric}", True, exact
    tiny, tiny_grey = small[20:70, 40:98], grey[20:70, 40:98]
    ls = {"syntax": JPEGLS_LOSSLESS, "photometric": "RGB", "px": 32}
    for name, interleave in (("planes", 0), ("lines", 1), ("pixels", 2)):
        Series(f"jpegls_{name}").instance("ls.dcm", tiny, interleave=interleave, **ls)
        yield f"jpegls_{name}", "ls.dcm", f"JPEG-LS lossless, RGB, interleaved by {name}", False, True
    Series("jpegls_near").instance("ls.dcm", tiny, near=3, **ls | {"syntax": JPEGLS})
    yield "jpegls_near", "ls.dcm", "JPEG-LS nearly lossless (3), RGB", False, True
    Series("jpegls_ybr").instance("ls.dcm", tiny, **ls | {"photometric": "YBR_FULL"})
    yield "jpegls_ybr", "ls.dcm", "JPEG-LS lossless, YBR_FULL", False, True
    Series("jpegls_grey").instance("ls.dcm", tiny_grey, **ls | {"photometric": None})
    yield "jpegls_grey", "ls.dcm", "JPEG-LS lossless, MONOCHROME2", False, True
    rle = ls | {"syntax": RLE}
    Series("rle").instance("rle.dcm", tiny, **rle)
    yield "rle", "rle.dcm", "RLE, RGB", False, True
    Series("rle_ybr").instance("rle.dcm", tiny[:32], planar=1, **rle | {"photometric": "YBR_FULL"})
    yield "rle_ybr", "rle.dcm", "RLE, YBR_FULL", False, True
    Series("rle_grey").instance("rle.dcm", tiny_grey, **rle | {"photometric": None})
    yield "rle_grey", "rle.dcm", "RLE, MONOCHROME2", False, True


def pydicom_level(files):
    """(frame side, RGB of the level) by pydicom; missing frames are white, of focal planes the middle one is taken."""
    sets = sorted((pydicom.dcmread(f) for f in files), key=lambda d: d.get("ConcatenationFrameOffsetNumber", 0))
    first = sets[0]
    width, height, px = first.TotalPixelMatrixColumns, first.TotalPixelMatrixRows, first.Columns
    columns, rows = -(-width // px), -(-height // px)
    frames = []
    for ds in sets:
        for i in range(ds.NumberOfFrames):
            plugin = "pylibjpeg" if ds.file_meta.TransferSyntaxUID in (JPEGLS_LOSSLESS, JPEGLS) else ""
            frame = pixel_array(ds, index=i, decoding_plugin=plugin)  # RGB, whatever the photometric interpretation
            frames.append(np.repeat(frame[..., None], 3, 2) if frame.ndim == 2 else frame)
    out = np.full((rows * px, columns * px, 3), 255, np.uint8)
    if first.DimensionOrganizationType == "TILED_SPARSE":
        groups = [g.PlanePositionSlideSequence[0] for ds in sets for g in ds.PerFrameFunctionalGroupsSequence]
        places = [(p.ColumnPositionInTotalImagePixelMatrix - 1, p.RowPositionInTotalImagePixelMatrix - 1) for p in groups]
    else:
        skip = (first.TotalPixelMatrixFocalPlanes - 1) // 2 * columns * rows
        frames = frames[skip:skip + columns * rows]
        places = [(i % columns * px, i // columns * px) for i in range(columns * rows)]
    for frame, (x, y) in zip(frames, places, strict=True):
        out[y:y + px, x:x + px] = frame
    return px, out[:height, :width]


def levels_of(folder):
    images = {}
    for file in sorted(folder.iterdir()):
        ds = pydicom.dcmread(file, stop_before_pixels=True)
        if ds.ImageType[2] == "VOLUME":
            images.setdefault(ds.get("ConcatenationUID", ds.SOPInstanceUID), []).append(file)
    levels = [pydicom_level(files) for files in images.values()]
    return sorted(levels, key=lambda level: -level[1].shape[1])


def entry(folder, name, purpose, opens, lossless):
    path = FOLDER / folder / name
    levels = levels_of(path.parent)
    readers = ["pydicom"]
    try:
        other, mpp = openslide_levels(path)
    except openslide.OpenSlideError as error:
        assert not opens, f"{folder}: OpenSlide was expected to read it: {error}"
        print(f"{folder}: OpenSlide: {str(error).splitlines()[0][-90:]}")
        opens = False
    else:
        opens = True
        readers.append("openslide")
        assert [p.shape for p in other] == [p.shape for _, p in levels], folder
        for (_, a), b in zip(levels, other):
            difference = np.abs(a.astype(int) - b)
            print(f"{folder}: OpenSlide and pydicom differ by {difference.mean():.4f}, at most {difference.max()}")
            assert difference.max() == 0 if lossless else difference.mean() <= JPEG_TOLERANCE, folder
        assert all(abs(v - MPP) < 1e-6 for v in mpp), mpp
        levels = [(px, b) for (px, _), b in zip(levels, other)]
    blob = path.read_bytes()
    out = {"file": f"{folder}/{name}", "sha256": hashlib.sha256(blob).hexdigest(), "bytes": len(blob),
           "purpose": purpose, "origin": DERIVED.replace("make_testdata", "make_dicom_testdata"), "license": "CC0-1.0",
           "format": "dicom", "openslide": opens, "lossless": lossless, "mpp": MPP, "golden_from": readers}
    out["level"] = []
    for px, picture in levels:
        height, width = picture.shape[:2]
        places = [(width * i // 7, height * j // 5) for i, j in ((0, 0), (3, 1), (6, 2), (1, 3), (4, 4), (6, 4))]
        level = {"width": width, "height": height, "block_px": px, "mean_rgb": mean_rgb(picture)}
        level["pixels"] = [[x, y, *map(int, picture[y, x])] for x, y in places]
        if lossless:
            level["rgb_sha256"] = hashlib.sha256(np.ascontiguousarray(picture).tobytes()).hexdigest()
        out["level"].append(level)
    return out


HEADER = """\
# Made by scripts/make_dicom_testdata.py; do not edit. What the series in this folder are (each a folder, named by one of its
# files), and what a reader must find in them; the keys are those of ../manifest.toml. Where OpenSlide opens a series the
# values are OpenSlide's, and pydicom agrees; otherwise they are pydicom's.
#   pixels      [x, y, r, g, b]
"""


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    cases = list(make_series(tifffile.imread(TESTDATA / SOURCE, key=0)))
    entries = [entry(*case) for case in cases]
    same = {e["level"][0]["rgb_sha256"] for e in entries if e["file"].split("/")[0] in LOSSLESS_ALIKE}
    assert len(same) == 1, "what is coded without loss comes back as it was"
    (FOLDER / "manifest.toml").write_text(manifest(entries, HEADER))
    files = [p for p in pathlib.Path(FOLDER).rglob("*.dcm")]
    total = sum(p.stat().st_size for p in files)
    assert total < MAX_TOTAL_BYTES, total
    print(f"{total} bytes in {len(files)} files")


if __name__ == "__main__":
    main()
