"""Decoded images on disk: after the first epoch a loader only crops and resizes.

Every image's pixels stand one after another in a single memory-mapped file, which all worker processes share.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import simplejpeg
import torch
from torch.utils.data import Dataset

from tcm_bench.data.cached_array import cached_array
from tcm_bench.data.decode import RGB, Picture
from tcm_bench.data.loader import Loader
from tcm_bench.data.table import ImageTable, Splits, Table
from tcm_bench.data.transforms import ImageTransform

CACHE_FORMAT = 1  # part of the key: a change of layout or meaning must not meet old files


def cached_images(
    splits: Splits,
    train_transform: ImageTransform,
    test_transform: ImageTransform,
    *,
    cache_dir: str | Path,
    limit_gb: float,
    num_workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Splits:
    """The splits with their images read from a cache of decoded pixels, made now if there is none.

    It holds exactly what the transforms ask for, so that they give the same bytes with it as without: images are shrunk
    beforehand if ``shrink_px`` says so, and kept at 1/2, 1/4 and 1/8 too where ``scaled_decode`` may want them.

    Args:
        splits: Two tables of images.
        train_transform: Applied to training images.
        test_transform: Applied to images of both tables.
        cache_dir: Where the cache lies; see :func:`~tcm_bench.data.cached_array.cached_array`.
        limit_gb: The largest cache to make, in 1e9 bytes.
        num_workers: Processes that decode.
        on_progress: Called with the images done and their total.

    Raises:
        ValueError: If the cache would be larger, the transforms shrink differently, or the folder cannot be written.
    """
    transforms = (train_transform, test_transform)
    shrink = _shrink_of(transforms)
    scaled = [t.kept_px for t in transforms if t.scaled_decode]
    keep = _Kept(test_transform, min(scaled) if scaled else None)
    tables = [table for table in (splits.train, splits.test) if isinstance(table, ImageTable)]
    shapes = np.concatenate([np.array(list(_loaded(_Shapes(t, keep), num_workers))).reshape(-1, 3) for t in tables])
    sizes = np.array([_length(*shape) for shape in shapes.tolist()])
    if (total := int(sizes.sum())) > limit_gb * 1e9:
        raise ValueError(
            f"the {len(sizes)} decoded images need {total / 1e9:.2g} GB, machine.image_cache_gb allows {limit_gb:g}: "
            "raise it, set data.shrink_px to keep smaller images, or switch the cache off with machine.image_cache_gb=0"
        )
    file = cached_array(
        "decoded images",
        cache_dir,
        {
            "format": CACHE_FORMAT,
            "images": splits.fingerprint,
            "shrink": list(shrink),
            "smallest_px": keep.smallest_px,
            "decoders": [simplejpeg.__version__, PIL.__version__],
        },
        (total,),
        "|u1",
        lambda: (block for table in tables for block in _loaded(_Blocks(table, keep), num_workers)),
        items=len(sizes),
        items_in=lambda block: 1,
        on_progress=on_progress,
    )
    starts, items = np.cumsum(sizes) - sizes, len(splits.train)
    train = _cached(splits.train, file, starts[:items], shapes[:items])
    return replace(splits, train=train, test=_cached(splits.test, file, starts[items:], shapes[items:]))


def _cached(table: Table, file: Path, starts: np.ndarray, shapes: np.ndarray) -> "CachedImages":
    """The table with the pixels of a file."""
    return CachedImages(table.labels, table.class_names, file, starts, shapes, **table.roles())


def _shrink_of(transforms: Sequence[ImageTransform]) -> tuple[Any, Any]:
    """What the transforms shrink images to beforehand, and how.

    Raises:
        ValueError: If they differ in it.
    """
    shrinks = {(t.shrink_px, t.interpolation if t.shrink_px else None) for t in transforms}
    if len(shrinks) > 1:
        raise ValueError(
            f"a cache of images needs one shrink_px and interpolation for all, got {sorted(map(str, shrinks))}"
        )
    return shrinks.pop()


@dataclass(frozen=True, eq=False)
class CachedImages(ImageTable):
    """Images whose pixels lie in one file.

    Attributes:
        file: uint8 array of all bytes.
        starts: int64 ``(items,)``, where each image begins.
        shapes: int64 ``(items, 3)``: height, width, and how many sizes of it there are, each half of the one before.
    """

    file: Path
    starts: np.ndarray
    shapes: np.ndarray

    @cached_property
    def _bytes(self) -> np.ndarray:
        """The file's content, mapped as writable only because torch warns of other arrays; nothing would be stored."""
        return np.load(self.file, mmap_mode="c", allow_pickle=False)

    def __getstate__(self) -> dict[str, Any]:
        """Without the pixels: another process maps the file itself."""
        return {key: value for key, value in self.__dict__.items() if key != "_bytes"}

    def picture(self, index: int) -> Picture:
        """The item's pixels; nothing is read yet."""
        return _Stored(self._bytes, int(self.starts[index]), *self.shapes[index].tolist())


@dataclass(frozen=True)
class _Stored:
    """An image at several sizes, one after the other."""

    content: np.ndarray
    start: int
    height: int
    width: int
    levels: int

    @property
    def factors(self) -> tuple[int, ...]:
        return tuple(2**level for level in range(self.levels))

    def pixels(self, factor: int = 1) -> RGB:
        start = self.start + _length(self.height, self.width, factor.bit_length() - 1)
        height, width = -(-self.height // factor), -(-self.width // factor)
        return self.content[start : start + height * width * 3].reshape(height, width, 3)


def _length(height: int, width: int, levels: int) -> int:
    """Bytes of an image at its first so many sizes."""
    return sum(-(-height // 2**level) * -(-width // 2**level) * 3 for level in range(levels))


@dataclass(frozen=True)
class _Kept:
    """What the cache keeps of an image: the sizes that a transform may ask for, down to `smallest_px`."""

    transform: ImageTransform
    smallest_px: int | None

    def factors(self, picture: Picture) -> list[int]:
        short = min(picture.height, picture.width)
        return [f for f in picture.factors if f == 1 or (self.smallest_px and short >= f * self.smallest_px)]

    def shape(self, picture: Picture) -> tuple[int, int, int]:
        height, width = self.transform.shrunk_size(picture.height, picture.width)
        if (height, width) != (picture.height, picture.width):
            return height, width, 1
        return height, width, len(self.factors(picture))

    def pixels(self, picture: Picture) -> np.ndarray:
        picture = self.transform.shrunk(picture)
        return np.concatenate([picture.pixels(factor).reshape(-1) for factor in self.factors(picture)])


@dataclass(frozen=True)
class _Shapes(Dataset[Any]):
    """Height, width and number of sizes of every image, from its header where that is enough."""

    table: ImageTable
    keep: _Kept

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> tuple[int, int, int]:
        return self.keep.shape(self.table.picture(row))


class _Blocks(_Shapes):
    """What the cache keeps of every image."""

    def __getitem__(self, row: int) -> Any:
        return self.keep.pixels(self.table.picture(row))


def _loaded(dataset: Dataset[Any], num_workers: int) -> Iterator[Any]:
    """All items of a dataset, in order."""
    own = torch.Generator()  # a loader draws a seed even without shuffling: leave the run's generator alone
    for items in Loader(dataset, 16, collate_fn=list, num_workers=num_workers, generator=own):
        yield from items
