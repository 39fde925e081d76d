"""Images that no run has seen, named as a person names them: one file, a folder, or a table."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from tcm_bench.data.datasets.csv_columns import csv_columns, labels_of
from tcm_bench.data.datasets.folder import IMAGE_SUFFIXES, class_folders, images_below
from tcm_bench.data.table import ImageFiles, Paths


class NewImages(NamedTuple):
    """Images and, if known, what they show.

    Attributes:
        images: All of one class, whatever they show.
        names: Path of each, as it stands in the table, or from the folder on.
        labels: Whole numbers or strings, one an image; None if nobody says.
    """

    images: ImageFiles
    names: list[str]
    labels: np.ndarray | None


def new_images(place: Path) -> NewImages:
    """The images that are meant.

    Args:
        place: An image; a folder of images, or of folders of images, whose names are the labels; or a ``.csv`` table
            with the column ``path`` (from the table's folder on) and, if known, ``label``.

    Raises:
        ValueError: If there is no image, an image of a table is missing, or it is not clear what the classes are.
    """
    if place.is_dir():
        return _folder(place)
    if place.suffix.lower() == ".csv":
        return _table(place)
    if place.suffix.lower() in IMAGE_SUFFIXES:
        return _new_images(place.parent, [place.name], None)
    raise ValueError(
        f"{place} is no folder, no .csv table with a column 'path' and no image ({', '.join(IMAGE_SUFFIXES)})"
    )


def _folder(place: Path) -> NewImages:
    folders = class_folders(place)
    flat = [path for path in images_below(place) if Path(path).parent == place]
    if {"train", "test"} <= {folder.name for folder in folders}:
        raise ValueError(f"{place} holds the two sides of a split: give {place / 'test'}, or the other one")
    if folders and flat:
        raise ValueError(
            f"{place} holds images ({Path(flat[0]).name}) beside folders of images ({folders[0].name}): move either "
            "away, because the folders' names are the labels"
        )
    listed = {folder.name: images_below(folder) for folder in folders} if folders else {"": flat}
    if not any(listed.values()):
        raise ValueError(f"found no image in {place} ({', '.join(IMAGE_SUFFIXES)})")
    names = [Path(path).relative_to(place).as_posix() for paths in listed.values() for path in paths]
    words = [label for label, paths in listed.items() for _ in paths]
    return _new_images(place, names, labels_of(words) if folders else None)


def _table(file: Path) -> NewImages:
    columns = csv_columns(file, ["path"], ["label"])
    names, words = columns["path"], columns.get("label")
    if not names:
        raise ValueError(f"{file} names no image")
    for row, name in enumerate(names, start=1):
        if not name or not (file.parent / name).is_file():
            raise ValueError(f"row {row} of {file} has {name!r} as path: there is no such file")
    if words and (empty := [row for row, word in enumerate(words, start=1) if not word.strip()]):
        raise ValueError(f"row {empty[0]} of {file} has no label: fill it in, or leave the column out")
    return _new_images(file.parent, names, labels_of(words) if words else None)


def _new_images(root: Path, names: list[str], labels: np.ndarray | None) -> NewImages:
    return NewImages(ImageFiles(np.zeros(len(names), np.int64), ["any"], Paths(root, names)), names, labels)
