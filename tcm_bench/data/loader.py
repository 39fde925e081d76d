"""Worker processes that read images."""

import sys
import warnings
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

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
