"""Drawings as files: two archives of strips, a contact sheet and a notice."""

import io
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tcm_bench.packages import fetch
from tcm_bench.prepare.recipes.drawings import Drawing, Drawings, Recipe, distinct, halves

MAX_WEBP_PX = 16_383

CLEANING = """\
Exact duplicates within a class were dropped, and pictures that occur in more than one class were dropped from all."""
AS_FOUND = "Nothing was dropped."
BUNDLED = """\
Not one of the benchmarks of the TCM paper: a small real set that lets every part of this project run without a
download. Numbers on it compare methods with each other, never with a published table."""
MADE = """\
Not one of the benchmarks of the TCM paper: a larger real set, made from pinned packages of public registries. Numbers
on it compare methods with each other, never with a published table."""


def strip(group: Sequence[Drawing]) -> tuple[str, bytes]:
    """Suffix and content of one file: a class's images, one below the other, as lossless WebP; as PNG if too tall."""
    stream = io.BytesIO()
    pixels = np.concatenate([drawing.pixels for drawing in group])
    if len(pixels) <= MAX_WEBP_PX:
        Image.fromarray(pixels).save(stream, "webp", lossless=True, quality=80, method=4)
        return ".webp", stream.getvalue()
    gray = bool((pixels == pixels[..., :1]).all())
    Image.fromarray(pixels[..., 0] if gray else pixels).save(stream, "png")
    return ".png", stream.getvalue()


def archive(drawings: Mapping[str, Sequence[Drawing]], classes: Sequence[str]) -> bytes:
    """A zip of one strip per class; no clock and no machine leaves a mark in it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as file:
        for name in classes:
            suffix, content = strip(drawings[name])
            entry = zipfile.ZipInfo(name + suffix, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            file.writestr(entry, content)
    return stream.getvalue()


def contact_sheet(drawings: Mapping[str, Sequence[Drawing]], rows: int = 16, columns: int = 6) -> bytes:
    """A PNG of evenly picked classes, two to a row, the first images of each side by side."""
    names = list(drawings)
    rows = min(rows, len(names) // 2)
    picked = [names[i * len(names) // (2 * rows)] for i in range(2 * rows)]
    side = drawings[picked[0]][0].pixels.shape[0]
    cell, gap = side + 4, 24
    sheet = Image.new("RGB", (2 * columns * cell + gap, rows * cell), "white")
    for place, name in enumerate(picked):
        row, half = divmod(place, 2)
        for column, drawing in enumerate(drawings[name][:columns]):
            tile = ImageOps.expand(Image.fromarray(drawing.pixels), border=1, fill="#dddddd")
            sheet.paste(tile, (half * (columns * cell + gap) + column * cell + 1, row * cell + 1))
    stream = io.BytesIO()
    sheet.quantize(64, dither=Image.Dither.NONE).save(stream, "png", optimize=True)
    return stream.getvalue()


def notice(recipe: Recipe, drawings: Drawings, split: Mapping[str, Sequence[str]]) -> str:
    """The set's NOTICE.md: origin, licenses, what was done, and the counts."""
    packages = "\n".join(
        f"| {p.manager} `{p.name}` | {p.version} | {p.license} | {p.credit} | `{p.sha256}` |" for p in recipe.packages
    )
    counts = "\n".join(
        f"| {side} | {len(names)} | {sum(len(drawings[name]) for name in names)} |" for side, names in split.items()
    )
    sizes = sorted(len(group) for group in drawings.values())
    sources = Counter(drawing.source for group in drawings.values() for drawing in group)
    shares = "\n".join(
        f"| {source} | {count} | {recipe.credits.get(source, 'see its package')} |"
        for source, count in sorted(sources.items())
    )
    command = "python scripts/bundled_data/build.py" if recipe.bundled else "tcm-bench data prepare"
    return f"""# {recipe.title}

{BUNDLED if recipe.bundled else MADE}

{recipe.method}

{CLEANING if recipe.distinct else AS_FOUND}
Classes are split in half by the SHA-256 of `{recipe.name}/<class>`; no class is on both sides.

| split | classes | images |
|---|---|---|
{counts}

Images per class: {sizes[0]} to {sizes[-1]}, median {sizes[len(sizes) // 2]}.

| source of images | images | license and credit |
|---|---|---|
{shares}

| package | version | license | credit | sha256 of the archive |
|---|---|---|---|---|
{packages}

Rebuild it, bit for bit, with `{command} {recipe.name}`.
"""


def set_files(recipe: Recipe, drawings: Drawings) -> dict[str, bytes]:
    """Every file of ``data/<name>/`` with its content."""
    if recipe.distinct:
        drawings = distinct(drawings, recipe.min_images)
    split = halves(recipe.name, list(drawings))
    return {
        **{f"{side}.zip": archive(drawings, names) for side, names in split.items()},
        "contact_sheet.png": contact_sheet(drawings),
        "NOTICE.md": notice(recipe, drawings, split).encode(),
    }


def build(recipe: Recipe, staging: Path, downloads: Path) -> None:
    """Make the set in a folder, its packages fetched to another."""
    archives = {package.name: fetch(package, downloads) for package in recipe.packages}
    for name, content in set_files(recipe, recipe.collect(archives)).items():
        (staging / name).write_bytes(content)
