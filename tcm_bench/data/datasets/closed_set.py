"""The same classes on both sides, in different images: for toys. Unseen classes, which OPIS is for, are not in it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tcm_bench.data.datasets.bundled import bundled_splits
from tcm_bench.data.table import ImageArray, Splits


def closed_set(root: str | Path, *, test_images_per_class: int, images_per_class: int | None = None) -> Splits:
    """A set of small pictures, its two archives taken together and each class cut by image.

    Args:
        root: See :func:`~tcm_bench.data.datasets.bundled.bundled_splits`.
        test_images_per_class: So many of the last images of every class are for testing, at least 2.
        images_per_class: So many of the first are for training, at least 2; ``None``: all others.

    Returns:
        Two tables of the same classes, in the order of their names.

    Raises:
        ValueError: If a number is too small, the set cannot be read, or a class has too few images for both sides.
    """
    if test_images_per_class < 2 or (images_per_class is not None and images_per_class < 2):
        raise ValueError(
            "images_per_class and test_images_per_class must be at least 2, to form a pair, got "
            f"{images_per_class} and {test_images_per_class}"
        )
    both = bundled_splits(root)
    images: dict[str, np.ndarray] = {}
    for table in (both.train, both.test):
        assert isinstance(table, ImageArray)
        images |= {name: table.images[table.labels == number] for number, name in enumerate(table.class_names)}
    smallest = min(map(len, images.values()))
    if smallest < test_images_per_class + (images_per_class or 2):
        raise ValueError(
            f"a class of {root} has {smallest} images, which do not give data.splits.images_per_class="
            f"{images_per_class} to train on and data.splits.test_images_per_class={test_images_per_class} others to "
            "test on"
        )
    key = f"{both.fingerprint} closed {images_per_class} {test_images_per_class}"
    return Splits(
        train=_table({name: group[:-test_images_per_class][:images_per_class] for name, group in images.items()}),
        test=_table({name: group[-test_images_per_class:] for name, group in images.items()}),
        fingerprint=hashlib.sha256(key.encode()).hexdigest(),
        closed_set=True,
    )


def _table(images: Mapping[str, np.ndarray]) -> ImageArray:
    """Class after class, by name."""
    names = sorted(images)
    return ImageArray(
        labels=np.repeat(np.arange(len(names)), [len(images[name]) for name in names]),
        class_names=names,
        images=np.concatenate([images[name] for name in names]),
    )
