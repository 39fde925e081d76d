"""From the lists that come with a dataset to its two tables of image files."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tcm_bench.data.table import ImageFiles, Splits

Counts = Mapping[str, Sequence[int]]


class Listing(NamedTuple):
    """Images of one split, row by row.

    Attributes:
        paths: Relative to the dataset's folder, with forward slashes. Strings: half a million of them fit
            where as many path objects do not.
        classes: Number of each image's class; classes are numbered anew in this order.
    """

    paths: Sequence[str]
    classes: Sequence[int]


def open_world(
    dataset: str,
    root: Path,
    train: Listing,
    test: Listing,
    class_names: Mapping[int, str],
    counts: Counts | None = None,
) -> Splits:
    """The two tables of a dataset, checked against the numbers it is known by.

    Args:
        dataset: Its name, for messages.
        root: Folder that the paths start from.
        train: Images to learn from.
        test: Images of other classes.
        class_names: Name of each class number.
        counts: ``{"train": (classes, images), "test": (classes, images)}`` as they must be; ``None``: not
            checked.

    Raises:
        ValueError: If a split has another number of classes or images, or a class is in both.
    """
    tables, digest = {}, hashlib.sha256()
    for split, (paths, classes) in {"train": train, "test": test}.items():
        numbers, labels = np.unique(np.asarray(classes, dtype=np.int64), return_inverse=True)
        names = [class_names[number] for number in numbers.tolist()]
        for kind, expected, found in zip(
            ("classes", "images"), (counts or {}).get(split, ()), (len(names), len(paths)), strict=False
        ):
            if found != expected:
                raise ValueError(
                    f"found {found} {split} {kind} in {root} where {dataset} has {expected}: "
                    "the copy is incomplete or is another dataset"
                )
        if not names:
            raise ValueError(f"found no {split} image of {dataset} in {root}")
        tables[split] = ImageFiles(labels, names, [f"{root}/{path}" for path in paths])
        rows = (f"{split}\t{path}\t{names[label]}\n" for path, label in zip(paths, labels.tolist(), strict=True))
        digest.update("".join(rows).encode())
    return Splits(train=tables["train"], test=tables["test"], fingerprint=digest.hexdigest())


def find_root(dataset: str, root: str | Path, marker: str, *inner: str) -> Path:
    """The folder that holds ``marker``: ``root``, or one of its folders ``inner`` that an archive unpacks to.

    Raises:
        ValueError: If there is none.
    """
    root = Path(root)
    for folder in (root, *(root / name for name in inner)):
        if (folder / marker).exists():
            return folder
    what = f"has no {marker}" if root.is_dir() else "is not a folder"
    raise ValueError(f"{root} {what}: {dataset} is expected there, set data.root to the folder that holds {marker}")


def read_columns(path: Path, columns: int) -> list[list[str]]:
    """Columns of a text table, separated by blanks; the last one may contain some. Empty lines are skipped.

    Raises:
        ValueError: If the file is missing or a line has fewer columns.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: it comes with the dataset and lists its images")
    rows = [line.split(maxsplit=columns - 1) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row]
    for number, row in enumerate(rows, start=1):
        if len(row) != columns:
            raise ValueError(f"row {number} of {path} has {len(row)} columns where {columns} are expected")
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(columns)]
