"""The batch at which training had to stop because its numbers were no numbers, kept so that it can be taken again."""

import contextlib
import pickle
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tcm_bench.files import replacing

DIVERGED = "diverged.ckpt"


class Diverged(NamedTuple):
    """Where training stopped, and all that it takes to compute that step again.

    Attributes:
        epoch: From 0.
        batch: Of the epoch, from 0.
        step: Optimizer steps taken before.
        indices: Row of each item of the batch in the training table; of the whole batch if processes shared it.
        labels: Of each item, as the loss had them: the number of its class among those that are drawn from.
        terms: Of the objective, by name; empty if training stopped at the weights that the batch had left.
        state: Parameters and buffers of the module as they were.
    """

    epoch: int
    batch: int
    step: int
    indices: Tensor
    labels: Tensor
    terms: dict[str, float]
    state: dict[str, Tensor]


def write_diverged(run_dir: Path, stopped: Diverged) -> bool:
    """Write `diverged.ckpt`; False if it cannot be written, which must not hide why training stopped."""
    # torch says by a RuntimeError that the disk is full
    with contextlib.suppress(OSError, RuntimeError), replacing(run_dir / DIVERGED) as temporary:
        torch.save(stopped._asdict(), temporary)
        return True
    return False


def read_diverged(run_dir: Path) -> Diverged:
    """What `write_diverged` wrote, on the CPU; nothing but tensors and plain values is read.

    Raises:
        ValueError: If there is none, or it is damaged.
    """
    file = run_dir / DIVERGED
    if not file.is_file():
        raise ValueError(f"{run_dir} holds no {DIVERGED}, which a run writes when its training diverges")
    try:
        return Diverged(**torch.load(file, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{file} is damaged ({reason}); give the run's command again") from error
