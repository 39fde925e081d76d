"""Any number of processes, and chunks of any size, take the step of one: for every loss, without and with TCM.

    python tests/every_loss.py            the table: processes x chunks x losses x TCM

A number is the largest difference of a parameter after three steps of SGD, over the largest change of any parameter.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

import tcm_bench  # noqa: F401  mends torchvision for lightning

# isort: split
import lightning.pytorch as pl
import torch
from forked_ranks import forked
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection

from tcm_bench.data.batch import Batch
from tcm_bench.losses.objective import Objective
from tcm_bench.models.embedder import Embedder
from tcm_bench.models.head import Head
from tcm_bench.runs.build import build
from tcm_bench.runs.experiment import HARMLESS
from tcm_bench.runs.naming import PROJECT_ROOT, composed
from tcm_bench.training.module import RetrievalModule
from tcm_bench.training.schedules import Constant

LOSSES = sorted(path.stem for path in (PROJECT_ROOT / "conf" / "loss").glob("*.yaml"))
CLASSES, ITEMS, STEPS = 6, 24, 3
Case = tuple[str, str, int | None]  # loss, TCM, chunk


class Network(nn.Module):
    """Images to vectors, small and smooth."""

    num_features = 12

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 12), nn.GELU())

    def forward(self, images: Tensor) -> Tensor:
        """Vectors of images ``(batch, 3, 4, 4)``."""
        return self.layers(images)


def module(loss: str, tcm: str, chunk: int | None) -> RetrievalModule:
    cfg = composed(f"loss={loss}", f"tcm={tcm}", f"+data.num_train_classes={CLASSES}", "model.head.embedding_dim=8")
    torch.manual_seed(0)
    return RetrievalModule(
        Embedder(Network(), partial(Head, embedding_dim=8)),
        Objective(build(cfg.loss), build(cfg.tcm)),
        MetricCollection({}),
        partial(torch.optim.SGD, lr=0.1),
        Constant(),
        chunk_size=chunk,
    )


def batches(rank: int, world: int) -> list[Batch]:
    """This process's part of each step's batch."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(STEPS):
        labels = torch.arange(CLASSES).repeat_interleave(ITEMS // CLASSES)
        images = torch.randn(CLASSES, 3, 4, 4, generator=generator)[labels]
        images = images + 0.8 * torch.randn(ITEMS, 3, 4, 4, generator=generator)
        here = torch.arange(ITEMS).chunk(world)[rank]
        found.append(Batch(images[here], labels[here], here))
    return found


def trained(case: Case, rank: int, world: int) -> dict[str, Tensor]:
    """Parameters before (`first.`) and after training."""
    part = module(*case)
    before = {f"first.{name}": value.detach().clone() for name, value in part.named_parameters()}
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        use_distributed_sampler=False,
        **quiet,
    )
    trainer.fit(part, DataLoader(batches(rank, world), batch_size=None), val_dataloaders=[])
    return before | {name: value.detach().clone() for name, value in part.named_parameters()}


def in_processes(world: int, cases: list[Case], out: Path) -> list[dict[str, Tensor]]:
    """What each case came to in the last of the processes."""

    def work(rank: int) -> None:
        torch.save([trained(case, rank, world) for case in cases], out / f"{world}-{rank}.pt")

    endings = [os.waitpid(child, 0)[1] for child in forked(world, work)]
    if any(endings):
        sys.exit(1)
    return torch.load(out / f"{world}-{world - 1}.pt", weights_only=True)


def difference(alone: dict[str, Tensor], shared: dict[str, Tensor]) -> float:
    names = [name for name in alone if not name.startswith("first.")]
    change = max(float((alone[name] - alone[f"first.{name}"]).abs().max()) for name in names)
    assert change > 1e-4, "nothing was learned"
    return max(float((alone[name] - shared[name]).abs().max()) for name in names) / change


def differences(worlds: list[int], chunks: list[int | None], losses: list[str]) -> list[tuple[int, Case, float]]:
    """Of every number of processes and case, from one process that takes the batch whole."""
    torch.set_num_threads(1)
    pairs = [(loss, tcm) for loss in losses for tcm in ("none", "paper")]
    cases: list[Case] = [(*pair, chunk) for pair in pairs for chunk in chunks]
    with tempfile.TemporaryDirectory() as out:
        alone = dict(zip(pairs, in_processes(1, [(*pair, None) for pair in pairs], Path(out)), strict=True))
        return [
            (world, case, difference(alone[case[:2]], shared))
            for world in worlds
            for case, shared in zip(cases, in_processes(world, cases, Path(out)), strict=True)
        ]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 3])
    asked.add_argument("--chunks", type=int, nargs="+", default=[0, 3], help="0: whole")
    asked.add_argument("--losses", nargs="+", default=LOSSES)
    asked.add_argument("--json", action="store_true")
    words = asked.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for known in HARMLESS:
        warnings.filterwarnings("ignore", message=known)
    found = differences(words.worlds, [chunk or None for chunk in words.chunks], words.losses)
    if words.json:
        sys.stdout.write(json.dumps(found))
        return
    columns = [(world, chunk or None) for world in words.worlds for chunk in words.chunks]
    lines = ["| loss | TCM | " + " | ".join(f"{w} x {f'chunks of {c}' if c else 'whole'}" for w, c in columns) + " |"]
    lines.append("| --- | --- |" + " ---: |" * len(columns))
    by_case = {(world, *case): value for world, case, value in found}
    for loss in words.losses:
        for tcm in ("none", "paper"):
            cells = [f"{by_case[world, loss, tcm, chunk]:.0e}" for world, chunk in columns]
            lines.append(f"| {loss} | {tcm} | {' | '.join(cells)} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
