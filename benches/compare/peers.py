"""The peers: how each opens a slide and gives a region of level 0.

A peer is a function that opens a slide and gives two: `region(x, y, side)`, what the library calls reading a region, with
nothing added; and `picture(region)`, the same as an RGB picture for Pillow to resize. Each is called in the fastest way
that was found on one thread.
"""


def openslide(slide):
    import openslide

    image = openslide.OpenSlide(slide)
    return lambda x, y, side: image.read_region((x, y), 0, (side, side)), lambda region: region.convert("RGB")


def cucim(slide):
    import numpy as np
    from cucim import CuImage
    from PIL import Image

    image = CuImage(slide)
    # Without num_workers the calling thread decodes; any number, 1 too, hands over to a pool and is slower.
    return (
        lambda x, y, side: np.asarray(image.read_region((x, y), (side, side), level=0)),
        lambda region: Image.fromarray(region),
    )


def fastslide(slide):
    import fastslide
    from PIL import Image

    image = fastslide.FastSlide.from_file_path(slide)
    return (
        lambda x, y, side: image.read_region((x, y), 0, (side, side)).numpy(),
        lambda region: Image.fromarray(region),
    )


def tiffslide(slide):
    import tiffslide
    from PIL import Image

    image = tiffslide.TiffSlide(slide)
    return (
        lambda x, y, side: image.read_region((x, y), 0, (side, side), as_array=True),
        lambda region: Image.fromarray(region),
    )


def pyvips(slide):
    import pyvips
    from PIL import Image

    # The binary wheel has no openslideload; a pyramidal TIFF's first page is level 0. A region has one size per picture.
    region = pyvips.Region.new(pyvips.Image.tiffload(slide, page=0))
    side_of = {}

    def fetch(x, y, side):
        side_of["last"] = side
        return region.fetch(x, y, side, side)

    return fetch, lambda pixels: Image.frombuffer("RGB", (side_of["last"],) * 2, pixels, "raw", "RGB", 0, 1)


PEERS = {
    "openslide": ("openslide-python", openslide),
    "cucim": ("cuCIM", cucim),
    "fastslide": ("fastslide", fastslide),
    "tiffslide": ("tiffslide", tiffslide),
    "pyvips": ("pyvips", pyvips),
}
