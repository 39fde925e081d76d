"""A kill in the middle of training, in this process."""

import contextlib
import itertools
from collections.abc import Iterator

import pytest

from tcm_bench.training.module import RetrievalModule


class Killed(RuntimeError):
    """In place of the signal."""


@contextlib.contextmanager
def killed_at(number: int) -> Iterator[None]:
    """Within, training must come to an end before its step of this number, counted from 1."""
    step, steps = RetrievalModule.training_step, itertools.count(1)

    def training_step(self, batch, batch_idx):
        if next(steps) == number:
            raise Killed
        return step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RetrievalModule, "training_step", training_step)
        with pytest.raises(Killed):
            yield
