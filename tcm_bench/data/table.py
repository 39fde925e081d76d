"""Tables of labelled items and the two open-world splits of a dataset."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True, eq=False)
class Table:
    """Labelled items of one split.

    Attributes:
        labels: int64 ``(items,)``, dense: every value of ``0 .. classes - 1`` occurs.
        class_names: Name of each label.
    """

    labels: np.ndarray
    class_names: Sequence[str]

    def __post_init__(self) -> None:
        """Refuse labels that the names do not cover."""
        seen = np.unique(self.labels)
        if not np.array_equal(seen, np.arange(len(self.class_names))):
            raise ValueError(
                f"labels must take every value of 0 .. {len(self.class_names) - 1}, "
                f"got {len(seen)} distinct values between {seen.min(initial=0)} and {seen.max(initial=0)}"
            )

    def __len__(self) -> int:
        """Number of items."""
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


@dataclass(frozen=True, eq=False)
class ImageTable(Table):
    """A table whose items are images."""

    def image(self, index: int) -> Image.Image:
        """The item's image in RGB, 8 bits a channel."""
        raise TypeError(f"{type(self).__name__} does not say how to read an image")


@dataclass(frozen=True, eq=False)
class ImageFiles(ImageTable):
    """Images that lie as files on disk, one path an item."""

    paths: Sequence[str | Path]

    def image(self, index: int) -> Image.Image:
        """Decode the file; EXIF orientation is ignored, as the field's loaders do."""
        with Image.open(self.paths[index]) as image:
            return image.convert("RGB")


@dataclass(frozen=True, eq=False)
class ImageArray(ImageTable):
    """Images held in memory: uint8 ``(items, height, width)`` or ``(items, height, width, 3)``."""

    images: np.ndarray

    def image(self, index: int) -> Image.Image:
        """A copy of the item's pixels."""
        return Image.fromarray(self.images[index]).convert("RGB")


@dataclass(frozen=True, eq=False)
class FeatureTable(Table):
    """Vectors in place of images: float32 ``(items, features)``, possibly memory-mapped."""

    features: np.ndarray

    @property
    def num_features(self) -> int:
        """Length of one vector."""
        return int(self.features.shape[1])


@dataclass(frozen=True, eq=False)
class Splits:
    """A dataset cut by class: no class of ``test`` occurs in ``train``.

    Attributes:
        train: Classes to learn from.
        test: Classes never seen in training.
        fingerprint: Hash of what decides the items and their order. For images that lie as files it covers their paths
            and classes; that the files are what they should be is checked by the dataset's own verification.
    """

    train: Table
    test: Table
    fingerprint: str

    def __post_init__(self) -> None:
        """Refuse a class that is on both sides."""
        if shared := set(self.train.class_names) & set(self.test.class_names):
            raise ValueError(
                f"{len(shared)} classes are in train and in test, for example {min(shared)!r}; "
                "an open-world split must be disjoint by class"
            )
