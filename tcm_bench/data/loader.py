"""Worker processes that read images, one by one or a batch together."""

import itertools
import sys
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from tcm_bench.data.batch import Batch

# A forked worker shares tables and mapped caches with its parent; a fresh process would import torch (2 s) and receive
# copies. Workers touch neither CUDA nor the parent's threads, and torch gives them one thread each. Elsewhere than on
# Linux system libraries do not survive a fork, and the platform's own way stands.
CONTEXT = "fork" if sys.platform == "linux" else None


class Loader(DataLoader[Any]):
    """A :class:`~torch.utils.data.DataLoader` that starts its workers in one way on all versions of Python.

    Args:
        dataset: What is loaded.
        batch_size: Items at a time; None: the dataset makes batches itself.
        num_workers: Processes; 0 reads in this one.
        **settings: Other settings of a loader.
    """

    def __init__(
        self, dataset: Dataset[Any], batch_size: int | None = 1, *, num_workers: int = 0, **settings: Any
    ) -> None:
        settings["multiprocessing_context"] = CONTEXT if num_workers else None
        super().__init__(dataset, batch_size, num_workers=num_workers, **settings)

    def __iter__(self) -> Any:
        """The batches; the workers ask the sampler for them when the first is wanted, not before.

        Lightning makes an iterator before it restores a checkpoint, which tells the sampler where to go on.
        """
        with warnings.catch_warnings():  # from 3.12 on Python warns of every fork of a process with threads
            warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
            batches = super().__iter__()
        yield from _raising_as_in_the_worker(batches) if self.num_workers else batches


def _raising_as_in_the_worker(batches: Any) -> Iterator[Any]:
    """The batches; torch puts the worker's whole traceback into the message of an error, here it is the cause."""
    try:
        yield from batches
    except (ValueError, OSError) as error:
        # Torch's traceback is a circle that holds the workers, and the collector would wait for each of them for 5 s.
        batches._shutdown_workers()
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        _, raised, message = str(error).rpartition(f"\n{name}: ")
        if not raised:
            raise
        raise kind(message.rstrip("\n")) from error


class BatchIndices(NamedTuple):
    """What a sampler asks of a dataset: the rows of a batch, or of a part of one, and the epoch they are for."""

    epoch: int
    rows: list[int]


class Batches(SequentialSampler):
    """What a :class:`BatchLoader` is to ask its dataset for; as long as there are batches, in however many parts.

    In Lightning's eyes a sequential sampler: any other would be replaced when ``trainer.overfit_batches`` is set.

    Attributes:
        parts: That each batch is asked for in, one after the other; the loader's choice.
    """

    parts = 1

    @abstractmethod
    def whole(self) -> Iterator[BatchIndices]:
        """The batches."""

    def __iter__(self) -> Iterator[BatchIndices]:  # type: ignore[override]  # an element is many rows, not one
        """Their parts: near-equal, the first of a batch its largest; the last are empty if it has too few rows."""
        for epoch, rows in self.whole():
            for part in np.array_split(np.asarray(rows), self.parts):
                yield BatchIndices(epoch, part.tolist())


class BatchLoader(Loader):
    """Batches that all workers make together, so that no more than two are in shared memory, whatever their size.

    A batch has a part for each worker and one more. Torch has two parts made for each worker at a time; of the two that
    remain of two batches, one is being put into its place in this process' own memory, and one may be still there from
    before. Without workers the dataset's batches are passed on as they are.

    Args:
        dataset: From :class:`BatchIndices` to a :class:`Batch`, of images if there are workers.
        batches: Of the loader alone.
        num_workers: Processes; 0 reads in this one.
        pin_memory: Put batches where a GPU can fetch them by itself.
        **settings: Other settings of a loader.
    """

    def __init__(
        self,
        dataset: Dataset[Batch],
        batches: Batches,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        **settings: Any,
    ) -> None:
        batches.parts = num_workers + 1 if num_workers else 1
        self.pin_whole = pin_memory and num_workers > 0  # torch would pin the parts, and a batch would not be
        pin_memory = pin_memory and not self.pin_whole
        super().__init__(dataset, None, sampler=batches, num_workers=num_workers, pin_memory=pin_memory, **settings)

    def __iter__(self) -> Any:
        """The batches, whole."""
        parts = super().__iter__()
        return self._assembled(parts) if self.num_workers else parts

    def _assembled(self, parts: Iterator[Batch]) -> Iterator[Batch]:
        """Batches in memory of this process, from parts that are let go one by one."""
        count = self.num_workers + 1
        for part, place in zip(parts, itertools.cycle(range(count)), strict=False):
            if place == 0:
                room, filled = [self._room(column, count * len(column)) for column in part], 0
            for whole, column in zip(room, part, strict=True):
                whole[filled : filled + len(column)] = column
            filled += len(part.labels)
            if place == count - 1:
                yield Batch(*(whole[:filled] for whole in room))
                del room  # whoever had the batch may be done with it

    def _room(self, column: Tensor, rows: int) -> Tensor:
        """Memory for this many rows of which `column` has the first, images pixel after pixel."""
        layout = torch.channels_last if column.ndim == 4 else torch.contiguous_format
        shape = rows, *column.shape[1:]
        return torch.empty(shape, dtype=column.dtype, memory_format=layout, pin_memory=self.pin_whole)
