"""Turn drawings into the files that are tracked: two archives, a contact sheet and a notice."""

import hashlib
import io
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageOps
from recipe import Drawing, Drawings, Recipe

CLEANING = """\
Exact duplicates within a class were dropped, and pictures that occur in more than one class were dropped from all."""
AS_FOUND = "Nothing was dropped."


def distinct(drawings: Mapping[str, Sequence[Drawing]], min_images: int) -> Drawings:
    """Drop pictures that cannot be told apart, then classes left with fewer than ``min_images``.

    Within a class the first of equal pictures stays; a picture found in several classes is a contradiction
    and leaves all of them.
    """
    pictures: dict[str, dict[bytes, Drawing]] = {}
    for name, group in sorted(drawings.items()):
        pictures[name] = {}
        for drawing in group:
            pictures[name].setdefault(drawing.pixels.tobytes(), drawing)
    classes_with = Counter(key for unique in pictures.values() for key in unique)
    kept: Drawings = {}
    for name, unique in pictures.items():
        left = [drawing for key, drawing in unique.items() if classes_with[key] == 1]
        if len(left) >= min_images:
            kept[name] = left
    return kept


def halves(set_name: str, classes: Sequence[str]) -> dict[str, list[str]]:
    """The class-disjoint split: the half of the classes whose hashes come first is for training.

    The hash of ``<set>/<class>`` serves as a seeded shuffle that no library can change. The larger half of an
    odd number is for testing.
    """
    shuffled = sorted(classes, key=lambda name: hashlib.sha256(f"{set_name}/{name}".encode()).digest())
    middle = len(shuffled) // 2
    return {"train": sorted(shuffled[:middle]), "test": sorted(shuffled[middle:])}


def strip(group: Sequence[Drawing]) -> bytes:
    """A class's images, one below the other, as lossless WebP."""
    stream = io.BytesIO()
    pixels = np.concatenate([drawing.pixels for drawing in group])
    Image.fromarray(pixels).save(stream, "webp", lossless=True, quality=80, method=4)
    return stream.getvalue()


def archive(drawings: Mapping[str, Sequence[Drawing]], classes: Sequence[str]) -> bytes:
    """A zip of one strip per class; no clock and no machine leaves a mark in it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as file:
        for name in classes:
            entry = zipfile.ZipInfo(f"{name}.webp", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            file.writestr(entry, strip(drawings[name]))
    return stream.getvalue()


def contact_sheet(drawings: Mapping[str, Sequence[Drawing]], rows: int = 16, columns: int = 6) -> bytes:
    """A PNG of evenly picked classes, two to a row, the first images of each side by side."""
    names = list(drawings)
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
    """The set's NOTICE.md: origin, licences, what was done, and the counts."""
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
    return f"""# {recipe.title}

Not one of the benchmarks of the TCM paper: a small real set that lets every part of this project run without a
download. Numbers on it compare methods with each other, never with a published table.

{recipe.method}

{CLEANING if recipe.distinct else AS_FOUND}
Classes are split in half by the SHA-256 of `{recipe.name}/<class>`; no class is on both sides.

| split | classes | images |
|---|---|---|
{counts}

Images per class: {sizes[0]} to {sizes[-1]}, median {sizes[len(sizes) // 2]}.

| source of images | images | licence and credit |
|---|---|---|
{shares}

| package | version | licence | credit | sha256 of the archive |
|---|---|---|---|---|
{packages}

Rebuild it, bit for bit, with `python scripts/embedded_data/build.py {recipe.name}`.
"""


def tracked_files(recipe: Recipe, drawings: Drawings) -> dict[str, bytes]:
    """Every file of ``data/<name>/`` with its content."""
    if recipe.distinct:
        drawings = distinct(drawings, recipe.min_images)
    split = halves(recipe.name, list(drawings))
    return {
        **{f"{side}.zip": archive(drawings, names) for side, names in split.items()},
        "contact_sheet.png": contact_sheet(drawings),
        "NOTICE.md": notice(recipe, drawings, split).encode(),
    }
