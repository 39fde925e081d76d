"""What a dataset is like: its classes and its images, told from the files' headers."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tcm_bench.data.table import ImageArray, ImageFiles, Table
from tcm_bench.prepare.picture import Unreadable, header, read_all


@dataclass(frozen=True)
class Summary:
    """One side of a dataset.

    Attributes:
        class_names: Of all classes.
        images_per_class: int ``(classes,)``.
        widths: int ``(images,)`` in pixels; images that cannot be read are left out.
        heights: The same.
        kinds: How many images have which format and color mode.
        size_bytes: Of all files; None: the images lie in an archive.
        unreadable: How many images cannot be read.
    """

    class_names: Sequence[str]
    images_per_class: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    kinds: Mapping[str, int]
    size_bytes: int | None
    unreadable: int


def summary(
    table: Table, processes: int | None = None, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Summary:
    """Measure one side; of each file only the header is read.

    Args:
        table: Images.
        processes: How many read; None: one a core.
        on_progress: Told how many images have been read, and of how many.

    Raises:
        ValueError: If the items are not images.
    """
    per_class = np.bincount(table.labels, minlength=table.num_classes)
    if isinstance(table, ImageArray):
        count, height, width = table.images.shape[:3]
        mode = "RGB" if table.images.ndim == 4 else "L"
        widths, heights = np.full(count, width), np.full(count, height)
        return Summary(table.class_names, per_class, widths, heights, {f"array {mode}": count}, None, 0)
    if not isinstance(table, ImageFiles):
        raise ValueError("there are vectors here, no images to be measured")
    sizes = np.zeros((2, len(table)), dtype=np.int64)
    kinds: Counter[str] = Counter()
    readable = np.zeros(len(table), dtype=bool)
    size_bytes = 0
    for index, found in enumerate(read_all(header, table.paths, processes)):
        if not isinstance(found, Unreadable):
            sizes[:, index] = found.width, found.height
            kinds[f"{found.format} {found.mode}"] += 1
            size_bytes += found.size_bytes
            readable[index] = True
        on_progress(index + 1, len(table))
    widths, heights = sizes[:, readable]
    missing = len(table) - int(readable.sum())
    return Summary(table.class_names, per_class, widths, heights, dict(kinds.most_common()), size_bytes, missing)


def histogram(values: np.ndarray, bins: int = 8, width: int = 40) -> list[str]:
    """Lines of a histogram of whole numbers: range of a bin, how many, and a bar.

    Args:
        values: int ``(n,)``, n >= 1.
        bins: At most so many.
        width: Of the longest bar, in characters.

    Example:
        >>> histogram(np.array([1, 2, 2, 2]), width=6)
        ['1  1  ██', '2  3  ██████']
    """
    low, high = int(values.min()), int(values.max())
    step = -(-(high - low + 1) // bins)
    starts = list(range(low, high + 1, step))
    counts, _ = np.histogram(values, [*starts, high + 1])
    ends = [min(start + step - 1, high) for start in starts]
    names = [f"{start}–{end}" if start < end else f"{start}" for start, end in zip(starts, ends, strict=True)]
    wide, digits = max(map(len, names)), max(len(f"{n:,}") for n in counts.tolist())
    bars = ("█" * -(-n * width // counts.max()) for n in counts.tolist())
    rows = zip(names, counts.tolist(), bars, strict=True)
    return [f"{name:>{wide}}  {n:>{digits},}  {bar}".rstrip() for name, n, bar in rows]
