"""Who counts: the threads of this process, and the processes that share a set."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
import torch.distributed as dist
from threadpoolctl import threadpool_limits
from torch import Tensor

from tcm_bench.multiplication import multiplied

T = TypeVar("T")


def in_threads(work: Callable[[], T], device: torch.device, stop: threading.Event | None = None) -> list[T]:
    """Results of one call per thread that torch may use; each multiplies alone, or their teams would collide.

    Args:
        work: Takes its share from an iterator that all calls have in common.
        device: Where it computes; elsewhere than on a CPU one thread is enough.
        stop: Set as soon as a call that is waited for has failed, for the others to look at, and in the end.
    """
    team = torch.get_num_threads()
    threads = team if device.type == "cpu" else 1
    torch.set_num_threads(1)
    exact = multiplied("highest")  # the error bound knows neither TF32 nor bfloat16
    try:
        with exact, threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(work) for _ in range(threads)]
            found = []
            try:
                while futures:
                    found.append(futures.pop(0).result())
                return found
            finally:
                futures.clear()  # an error's traceback holds this frame, and each future its error: a circle
                if stop:
                    stop.set()
    finally:
        torch.set_num_threads(team)


class Processes:
    """The processes that hold the same set and share the work; without a group there is this one alone.

    Attributes:
        rank: Of this process.
        world: How many there are.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group
        self.rank = dist.get_rank(group) if group else 0
        self.world = dist.get_world_size(group) if group else 1

    def add(self, *counts: Tensor) -> None:
        """Sum over the processes, in place."""
        if self._group:
            for count in counts:
                dist.all_reduce(count, group=self._group)

    def largest(self, values: Tensor) -> Tensor:
        """The largest of each value, the same to the bit everywhere."""
        if self._group:
            dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self._group)
        return values

    def gathered(self, rows: Tensor) -> Tensor:
        """The rows of all processes, in the order of their ranks."""
        if not self._group:
            return rows
        lengths = rows.new_zeros(self.world, dtype=torch.int64)
        lengths[self.rank] = len(rows)
        self.add(lengths)
        padded = rows.new_zeros(int(lengths.max()), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded, group=self._group)
        return torch.cat([part[:length] for part, length in zip(parts, lengths.tolist(), strict=True)])
