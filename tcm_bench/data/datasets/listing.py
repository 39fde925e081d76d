"""From the lists that come with a dataset to its two tables of image files."""

import hashlib
import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tcm_bench.data.table import ImageFiles, Paths, Splits

Counts = Mapping[str, Sequence[int]]


class Listing(NamedTuple):
    """Images of one split, row by row.

    Attributes:
        paths: Relative to the dataset's folder, with forward slashes.
        classes: Number of each image's class; labels are dense and follow the order of these numbers.
    """

    paths: Sequence[str]
    classes: Sequence[int] | np.ndarray


def class_disjoint_splits(
    dataset: str,
    root: Path,
    train: Listing,
    test: Listing,
    class_names: Mapping[int, str],
    counts: Counts | None = None,
    *,
    ranges: Mapping[str, range] | None = None,
    subset: bool | None = None,
    nested: Sequence[str] = (),
) -> Splits:
    """The two tables of a dataset, checked against the numbers it is known by.

    The fingerprint covers side, path and class name, row by row, as the lists have them: it is the same wherever and
    however nested a copy lies. That a whole copy holds as many classes as the range of their numbers, none outside,
    proves that it holds each.

    Args:
        dataset: Its name, for messages.
        root: Folder that the paths start from.
        train: Images to learn from.
        test: Images of other classes.
        class_names: Name of each class number.
        counts: ``{"train": (classes, images), "test": (classes, images)}`` as they must be; ``None``: not
            checked.
        ranges: Class numbers of ``train`` and ``test`` as they must be; ``None``: not checked.
        subset: Accept fewer of each; more are never accepted. Class numbers may then lie in either range. None: as
            False, of a dataset that has no such setting.
        nested: Folders that a copy may hold inside a folder of the same name, as some mirrors unpack archives.

    Raises:
        ValueError: If a split has another number of classes or images, a class number is out of range or has no
            name, a class or an image is in both, an image occurs twice, or a path leads out of ``root``.
    """
    _check_counts(dataset, root, {"train": train, "test": test}, counts or {}, subset)
    tables, digest = {}, hashlib.sha256()
    inner = tuple(f"{folder}/" for folder in nested if (root / folder / folder).is_dir())
    for split, (paths, classes) in {"train": train, "test": test}.items():
        numbers, labels = np.unique(np.asarray(classes, dtype=np.int64), return_inverse=True)
        if not len(paths):
            raise ValueError(f"found no {split} image of {dataset} in {root}")
        allowed = {number for side, chosen in (ranges or {}).items() if subset or side == split for number in chosen}
        for number in numbers.tolist():
            if ranges and number not in allowed:
                raise ValueError(f"{root} has the {split} class {number}: {dataset} knows none of that number")
            if number not in class_names:
                raise ValueError(f"{root} has images of the {split} class {number}, but no name for it")
        names = [class_names[number] for number in numbers.tolist()]
        places = [path[: path.index("/") + 1] + path if path.startswith(inner) else path for path in paths]
        tables[split] = ImageFiles(labels, names, Paths(root, places))
        for path, label in zip(paths, labels.tolist(), strict=True):
            digest.update(os.fsencode(f"{split}\t{path}\t{names[label]}\n"))
    _check_paths(dataset, root, [*train.paths, *test.paths])
    return Splits(train=tables["train"], test=tables["test"], fingerprint=digest.hexdigest())


def _check_paths(dataset: str, root: Path, paths: Sequence[str]) -> None:
    """Refuse a path that leads out of the dataset's folder, on any system, and one that occurs twice."""
    for path in paths:
        starts_elsewhere = path[:1] in "/\\" or path[1:3] in (":/", ":\\")
        if starts_elsewhere or (".." in path and ".." in path.replace("\\", "/").split("/")):
            raise ValueError(f"the lists of {dataset} name {path!r}, which does not lie in {root}")
    if len(set(paths)) < len(paths):
        twice, _ = Counter(paths).most_common(1)[0]
        raise ValueError(f"the lists of {dataset} in {root} name {twice!r} more than once")


def halves(paths: Sequence[str], classes: Sequence[int], first_test_class: int) -> tuple[Listing, Listing]:
    """The images of the classes below a number, and of those from it on."""
    in_test = np.asarray(classes, dtype=np.int64) >= first_test_class
    sides = (np.flatnonzero(rows).tolist() for rows in (~in_test, in_test))
    train, test = (Listing([paths[row] for row in rows], [classes[row] for row in rows]) for rows in sides)
    return train, test


def _check_counts(
    dataset: str, root: Path, listings: Mapping[str, Listing], counts: Counts, subset: bool | None
) -> None:
    """Refuse other numbers of classes and images than those the dataset is known by, all of them at once."""
    wrong: list[str] = []
    less = True
    for split, (paths, classes) in listings.items():
        found = {"classes": len(np.unique(np.asarray(classes, dtype=np.int64))), "images": len(paths)}
        for (kind, number), expected in zip(found.items(), counts.get(split, ()), strict=False):
            if number > expected or (number < expected and not subset):
                place, owner = ("", "it") if wrong else (f" in {root}", dataset)
                less &= number < expected
                wrong.append(f"{number} {split} {kind}{place} where {owner} has {expected}")
    if wrong:
        part = "; data.subset=true trains on the part that is there" if less and subset is not None else ""
        raise ValueError(f"found {', '.join(wrong)}: the copy is incomplete or is another dataset{part}")


def find_root(dataset: str, name: str, root: str | Path, *markers: str) -> Path:
    """The folder that holds one of ``markers``: ``root``, or one at most two levels below, as archives unpack to.

    Args:
        dataset: As papers call it, for messages.
        name: As `tcm-bench data prepare` calls it.
        root: Where to look.
        *markers: Files or folders, relative to the one that is looked for.

    Raises:
        ValueError: If there is none, or more than one.
    """
    root = Path(root)
    for level in ("", "*/", "*/*/"):
        found = {path.parent for marker in markers for path in root.glob(level + marker)}
        folders = sorted(path for path in found if not is_left_by_mac(path.relative_to(root)))
        if len(folders) > 1:
            raise ValueError(
                f"{root} holds {dataset} more than once, in {folders[0].relative_to(root)} and in "
                f"{folders[1].relative_to(root)}: set data.root to one of them"
            )
        if folders:
            return folders[0]
    wanted = " or ".join(markers)
    what = f"has no {wanted}" if root.is_dir() else "is not a folder"
    raise ValueError(
        f"{root} {what}: {dataset} is expected there; `tcm-bench data prepare {name} --root {shlex.quote(str(root))}` "
        f"puts it there, or set data.root to the folder that holds {wanted}"
    )


def is_left_by_mac(path: Path) -> bool:
    """Whether it lies among the copies of file attributes that a Mac adds to an archive."""
    return any(part == "__MACOSX" or part.startswith("._") for part in path.parts)


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, without blanks around them; empty ones are left out.

    Line ends may be those of any system, and a byte order mark may come first.

    Raises:
        ValueError: If the file is missing or is no text.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: it comes with the dataset and lists its images")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: byte {error.start} is no text in UTF-8") from error
    return [text for line in lines if (text := line.strip())]


def read_columns(path: Path, columns: int) -> list[list[str]]:
    """Columns of a text table, separated by blanks; the last one may contain some.

    Raises:
        ValueError: If the file is missing or is no text, or a line has fewer columns.
    """
    rows = [line.split(maxsplit=columns - 1) for line in read_lines(path)]
    for row in rows:
        if len(row) != columns:
            raise ValueError(f"{path} has the line {' '.join(row)!r} where {columns} columns are expected")
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(columns)]


def whole_numbers(path: Path, column: Sequence[str]) -> list[int]:
    """A column of a list as numbers.

    Raises:
        ValueError: If a cell is none.
    """
    if wrong := [cell for cell in column if not (cell.isascii() and cell.isdecimal())]:
        raise ValueError(f"{path} has {wrong[0]!r} where a number is expected")
    return [int(cell) for cell in column]
