"""Learning-rate schedules: pure functions from the epoch reached to a factor of the base rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """What the engine asks of a schedule."""

    def __call__(self, epoch: float, max_epochs: int) -> float:
        """Factor of the base rate, in [0, 1], after `epoch` epochs (fractions count) of `max_epochs`."""


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 down to 0, after an optional linear warm-up.

    Example:
        >>> Cosine()(5, 10)
        0.5
    """

    warmup_epochs: float = 0

    def __call__(self, epoch: float, max_epochs: int) -> float:
        """Factor at `epoch`."""
        if epoch < self.warmup_epochs:
            return epoch / self.warmup_epochs
        done = (epoch - self.warmup_epochs) / max(max_epochs - self.warmup_epochs, 1e-12)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1)))


@dataclass(frozen=True)
class MultiStep:
    """A factor `gamma` at every milestone passed.

    Example:
        >>> MultiStep(milestones=(40, 70), gamma=0.5)(70, 90)
        0.25
    """

    milestones: Sequence[float]
    gamma: float = 0.3

    def __call__(self, epoch: float, max_epochs: int) -> float:
        """Factor at `epoch`."""
        return self.gamma ** sum(epoch >= milestone for milestone in self.milestones)


@dataclass(frozen=True)
class Constant:
    """The base rate throughout."""

    def __call__(self, epoch: float, max_epochs: int) -> float:
        """1."""
        return 1.0
