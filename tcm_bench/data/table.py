"""Tables of labeled items and the two open-world splits of a dataset."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image

from tcm_bench.data.decode import Picture, Pixels, picture


class Paths(Sequence[str]):
    """Paths of many files, held as one block of bytes.

    Half a million strings would cost more memory than their letters and be copied by every worker process:
    reading an object writes its reference count. Here a string is made when it is asked for.

    Args:
        root: Folder that the names start from.
        names: Relative to ``root``, with forward slashes; an absolute one stands for itself.
    """

    def __init__(self, root: str | Path, names: Sequence[str]) -> None:
        self.root = str(root)
        self._names = os.fsencode("\0".join([*names, ""]))  # each ends in a NUL, which no path holds
        self._ends = np.flatnonzero(np.frombuffer(self._names, dtype=np.uint8) == 0)
        if len(self._ends) != len(names):
            raise ValueError(f"a path of {root} holds the character NUL, which no file name may")

    def __len__(self) -> int:
        """Number of files."""
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Paths": ...
    def __getitem__(self, index: int | slice) -> "str | Paths":
        """One path, ``root`` included, or a run of them."""
        if isinstance(index, slice):
            return Paths(self.root, [self.name(row) for row in range(*index.indices(len(self)))])
        return os.path.join(self.root, self.name(index))  # noqa: PTH118 a path object for each image is slow

    def name(self, index: int) -> str:
        """One path, relative to ``root``."""
        row = range(len(self))[index]
        start = self._ends[row - 1] + 1 if row else 0
        return os.fsdecode(self._names[start : self._ends[row]])


@dataclass(frozen=True, eq=False)
class Table:
    """Labeled items of one split.

    Attributes:
        labels: int64 ``(items,)``, dense: every value of ``0 .. classes - 1`` occurs.
        class_names: Name of each label.
        query: bool ``(items,)``, which items are searched with in evaluation; None: all.
        gallery: bool ``(items,)``, which items are searched among; None: all.
    """

    labels: np.ndarray
    class_names: Sequence[str]
    query: np.ndarray | None = field(default=None, kw_only=True)
    gallery: np.ndarray | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse labels that the names do not cover, and masks that are none."""
        for name, mask in self.roles().items():
            if mask is not None and (mask.dtype != bool or mask.shape != self.labels.shape):
                raise ValueError(
                    f"{name} must be bool of shape {self.labels.shape}, got {mask.dtype} of shape {mask.shape}"
                )
        seen = np.unique(self.labels)
        if not np.array_equal(seen, np.arange(len(self.class_names))):
            raise ValueError(
                f"labels must take every value of 0 .. {len(self.class_names) - 1}, "
                f"got {len(seen)} distinct values between {seen.min(initial=0)} and {seen.max(initial=0)}"
            )

    def roles(self, rows: np.ndarray | None = None) -> dict[str, np.ndarray | None]:
        """The masks by name, of some rows or of all, as another table of the same items takes them."""
        masks = {"query": self.query, "gallery": self.gallery}
        return {name: mask if mask is None or rows is None else mask[rows] for name, mask in masks.items()}

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

    def picture(self, index: int) -> Picture:
        """The item's image, of which no more is decoded than is asked for."""
        raise TypeError(f"{type(self).__name__} does not say how to read an image")

    def image(self, index: int) -> Image.Image:
        """The item's whole image in RGB, 8 bits a channel, to look at."""
        return Image.fromarray(self.picture(index).pixels())


@dataclass(frozen=True, eq=False)
class ImageFiles(ImageTable):
    """Images that lie as files on disk, one path an item."""

    paths: Paths

    def picture(self, index: int) -> Picture:
        """Read the file; EXIF orientation is ignored, as the field's loaders do.

        Raises:
            ValueError: If it cannot be read or is no image.
        """
        path = self.paths[index]
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            reason = error.strerror or str(error)
            raise ValueError(f"{path} cannot be read ({reason}): get the file again, or leave it out") from error
        return picture(data, path)


@dataclass(frozen=True, eq=False)
class ImageArray(ImageTable):
    """Images held in memory: uint8 ``(items, height, width)`` or ``(items, height, width, 3)``."""

    images: np.ndarray

    def picture(self, index: int) -> Picture:
        """The item's pixels; gray ones in three equal channels."""
        pixels = self.images[index]
        return Pixels(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))


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
    """A dataset cut by class, so that no class of ``test`` occurs in ``train``; or, a toy, by image.

    Attributes:
        train: Classes to learn from.
        test: Classes never seen in training; of a closed set the same ones, in other images.
        fingerprint: Hash of what decides the items and their order. For images that lie as files it covers their paths
            and classes; that the files are what they should be is checked by the dataset's own verification.
        closed_set: Whether both sides have the same classes, by the reader's word in different images: no open-world
            test, which only `tcm_bench.data.datasets.closed_set` makes.
    """

    train: Table
    test: Table
    fingerprint: str
    closed_set: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse a class that is on both sides; in a closed set one that is in test alone."""
        if self.closed_set:
            if new := set(self.test.class_names) - set(self.train.class_names):
                raise ValueError(f"a closed set tests classes that are trained on, and {min(new)!r} is not in train")
        elif shared := set(self.train.class_names) & set(self.test.class_names):
            raise ValueError(
                f"{len(shared)} classes are in train and in test, for example {min(shared)!r}; "
                "an open-world split must be disjoint by class"
            )
