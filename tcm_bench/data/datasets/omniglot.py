"""Omniglot: characters of fifty alphabets, each drawn by twenty people; the authors' own class-disjoint split."""

import hashlib
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from tcm_bench.data.datasets.listing import Listing, class_disjoint_splits, find_root, is_left_by_mac
from tcm_bench.data.table import ImageArray, ImageFiles, Splits

DATASET = "Omniglot"
TRAIN, TEST = "images_background", "images_evaluation"
COUNTS = {"train": (964, 19_280), "test": (659, 13_180)}  # classes, images
PUBLISHED_PX = 105


def omniglot_files(root: str | Path, *, subset: bool = False) -> Splits:
    """Characters of the background alphabets train, those of the evaluation alphabets test; images as files.

    Args:
        root: Folder that holds ``images_background/`` and ``images_evaluation/``, or one that it lies in.
        subset: Accept fewer classes and images than the dataset has.

    Raises:
        ValueError: If a folder is missing, or what is found is not the dataset.

    References:
        Lake et al., "Human-level concept learning through probabilistic program induction", Science 2015.
    """
    root = find_root(DATASET, "omniglot", root, TRAIN)
    numbers: dict[str, int] = {}
    train, test = (_listing(root, half, numbers) for half in (TRAIN, TEST))
    names = {number: name for name, number in numbers.items()}
    return class_disjoint_splits(DATASET, root, train, test, names, COUNTS, subset=subset)


def omniglot(root: str | Path, *, side_px: int = 35, rotations: bool = False, subset: bool = False) -> Splits:
    """The same, read into memory and shrunk.

    Args:
        root: See `omniglot_files`.
        side_px: Side of the square that the published one of 105 px is shrunk to, by the mean of the pixels covered:
            35 is a third.
        rotations: In training, a character turned by 90, 180 or 270 degrees is a class of its own, as few-shot
            learning has it: four times the classes, of which the four of a character are neighbors. Test classes are
            never turned.
        subset: See `omniglot_files`.

    Raises:
        ValueError: As `omniglot_files`; and if an image cannot be read or is not square.
    """
    if not 1 <= side_px <= PUBLISHED_PX:
        raise ValueError(f"side_px must be from 1 to {PUBLISHED_PX}, got {side_px}")
    files = omniglot_files(root, subset=subset)
    train, test = (_in_memory(cast(ImageFiles, table), side_px) for table in (files.train, files.test))
    key = f"{files.fingerprint} {side_px} {rotations}"
    return Splits(_turned(train) if rotations else train, test, hashlib.sha256(key.encode()).hexdigest())


def _listing(root: Path, half: str, numbers: dict[str, int]) -> Listing:
    """The images of one half in the order of their paths; adds its characters to ``numbers``."""
    folder = root / half
    found = sorted(path.relative_to(root) for path in folder.glob("*/*/*.png"))
    paths = [path for path in found if not is_left_by_mac(path)]
    characters = ["/".join(path.parts[1:3]) for path in paths]
    return Listing([path.as_posix() for path in paths], [numbers.setdefault(name, len(numbers)) for name in characters])


def _in_memory(table: ImageFiles, side_px: int) -> ImageArray:
    images = np.empty((len(table), side_px, side_px), dtype=np.uint8)
    for row in range(len(table)):
        image = table.image(row).convert("L")
        if image.width != image.height:
            raise ValueError(f"{table.paths[row]} has {image.width} x {image.height} pixels: {DATASET}'s are square")
        images[row] = np.asarray(image.resize((side_px, side_px), Image.Resampling.BOX))
    return ImageArray(table.labels, table.class_names, images)


def _turned(table: ImageArray) -> ImageArray:
    """Each class four times, turned by another quarter each time; the four are neighbors."""
    turns = range(4)
    return ImageArray(
        labels=np.concatenate([4 * table.labels + turn for turn in turns]),
        class_names=[f"{name} {90 * turn}" if turn else name for name in table.class_names for turn in turns],
        images=np.concatenate([np.rot90(table.images, turn, axes=(1, 2)) for turn in turns]),
    )
