"""What a run writes while it trains: its history, its progress, the state it resumes from."""

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from tcm_bench.files import write_atomic
from tcm_bench.results.ledger import write_progress

HISTORY = "history.csv"
CHECKPOINT = "last.ckpt"


class History(Callback):
    """`history.csv`: one row an epoch with every logged value; `lr` is the learning rate of the epoch's last step.

    The rows belong to the checkpoint, so a resumed run goes on from the rows that the checkpoint had.
    """

    def __init__(self, run_dir: str | Path) -> None:
        """Write into `run_dir`."""
        self.path = Path(run_dir) / HISTORY
        self.rows: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """Rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows of the checkpoint."""
        self.rows = state_dict["rows"]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch's row and rewrite the file."""
        logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
        place = {"epoch": trainer.current_epoch, "step": trainer.global_step, "lr": logged.pop("train/lr")}
        self.rows.append({**place, **logged})
        if trainer.is_global_zero:
            columns = list(dict.fromkeys(name for row in self.rows for name in row))
            text = io.StringIO()
            writer = csv.DictWriter(text, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
            write_atomic(self.path, text.getvalue())


class ProgressFile(Callback):
    """Keeps `running.json` current, at most once a second."""

    def __init__(self, run_dir: str | Path, every_s: float = 1.0) -> None:
        """Write into `run_dir`."""
        self.run_dir = Path(run_dir)
        self.every_s = every_s
        self.last = -math.inf  # the clock may be younger than `every_s`: it starts with the machine

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Say how many steps are done."""
        if trainer.is_global_zero and time.monotonic() - self.last >= self.every_s:
            self.last = time.monotonic()
            write_progress(self.run_dir, "train", trainer.global_step, int(trainer.estimated_stepping_batches))


def resume_checkpoint(run_dir: str | Path) -> ModelCheckpoint:
    """Everything a killed run needs to go on, written atomically after each epoch to `last.ckpt`."""
    return ModelCheckpoint(
        dirpath=run_dir,
        filename=Path(CHECKPOINT).stem,
        save_top_k=1,
        monitor=None,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )
