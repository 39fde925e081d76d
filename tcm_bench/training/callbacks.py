"""What a run writes while it trains: its history, its progress, the state it resumes from."""

import csv
import io
import logging
import math
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from tcm_bench.files import write_atomic
from tcm_bench.process import NOTICE, Preempted
from tcm_bench.results.ledger import BEST, CHECKPOINT, HISTORY, PREVIOUS, TRAIN, VALIDATE, write_progress
from tcm_bench.tensors import write_tensors

SELECTED_BY = "val/recall_at_1"

log = logging.getLogger(__name__)


class History(Callback):
    """`history.csv`: one row an epoch with every logged value; `lr` is the learning rate of the epoch's last step.

    The rows belong to the checkpoint, so a resumed run goes on from the rows that the checkpoint had. It tells them to
    the loggers again, for what these have of them may have been lost with the process.
    """

    def __init__(self, run_dir: str | Path) -> None:
        """Write into `run_dir`."""
        self.path = Path(run_dir) / HISTORY
        self.rows: list[dict[str, float]] = []
        self.validated: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """Rows so far, and what a validation within the epoch has found."""
        return {"rows": self.rows, "validated": self.validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up those of the checkpoint."""
        self.rows, self.validated = state_dict["rows"], state_dict["validated"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the loggers what a checkpoint had, in the names and at the steps in which Lightning told it first."""
        for row in self.rows:
            values = {{"lr": "train/lr"}.get(name, name): value for name, value in row.items() if name != "step"}
            for logger in trainer.loggers:
                logger.log_metrics(values, step=int(row["step"]) - 1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what was found; a process that resumes within the epoch does not know."""
        logged = trainer.logged_metrics.items()
        self.validated = {name: float(value) for name, value in logged if name.startswith("val/")}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch's row and rewrite the file."""
        now = {name: float(value) for name, value in trainer.logged_metrics.items() if not name.startswith("val/")}
        logged = self.validated | now  # Lightning keeps those of the last validation, however long ago
        self.validated = {}
        place = {"epoch": trainer.current_epoch, "step": trainer.global_step, "lr": logged.pop("train/lr")}
        self.rows.append({**place, **logged})
        if trainer.is_global_zero:
            columns = list(dict.fromkeys(name for row in self.rows for name in row))
            text = io.StringIO()
            writer = csv.DictWriter(text, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
            try:
                write_atomic(self.path, text.getvalue())
            except OSError as error:  # a full disk: the next epoch writes all rows again
                log.warning("no %s (%s): training goes on without", self.path, error)


class ProgressFile(Callback):
    """Keeps `running.json` current, at most once a second."""

    def __init__(self, run_dir: str | Path, every_s: float = 1.0) -> None:
        """Write into `run_dir`."""
        self.run_dir = Path(run_dir)
        self.every_s = every_s
        self.last = -math.inf  # the clock may be younger than `every_s`: it starts with the machine

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The first step may take long, or fail."""
        self._say(trainer, TRAIN)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Say how many steps are done."""
        if trainer.is_global_zero and time.monotonic() - self.last >= self.every_s:
            self._say(trainer, TRAIN)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Held-out classes are measured."""
        self._say(trainer, VALIDATE)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Back to training."""
        self._say(trainer, TRAIN)

    def _say(self, trainer: pl.Trainer, stage: str) -> None:
        self.last = time.monotonic()
        write_progress(self.run_dir, stage, trainer.global_step, int(trainer.estimated_stepping_batches))


class StepTime(Callback):
    """How long a step takes, from the end of one to the end of the next: its batch, both passes, the update.

    Of the steps that this process made, within their epochs. On a GPU the process runs ahead by a few steps and is then
    held to its pace.
    """

    def __init__(self) -> None:
        """Nothing was measured yet."""
        self.seconds: list[float] = []
        self.last: float | None = None

    @property
    def median_s(self) -> float | None:
        """Of all steps; None if there was no second one in any epoch."""
        return statistics.median(self.seconds) if self.seconds else None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What lies between two epochs belongs to no step."""
        self.last = None

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Note the time since the last one."""
        now = time.perf_counter()
        if self.last is not None:
            self.seconds.append(now - self.last)
        self.last = now


class BestWeights(Callback):
    """Keeps the network of the epoch with the highest R@1 on held-out classes, the first of equals.

    The file says which epoch and score it holds, and is believed over a checkpoint: it may be newer, and a run that
    goes on elsewhere may not come to that score again. On a full disk the run ends: its result would be another one.
    """

    def __init__(self, run_dir: str | Path) -> None:
        """Write into `run_dir`."""
        self.path = Path(run_dir) / BEST
        self.best = -math.inf
        self.epoch: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """So that a checkpoint says that there is a file."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Know again what the file holds.

        Raises:
            ValueError: If it is not there any more, or damaged.
        """
        if state_dict["epoch"] is not None:
            try:
                with safe_open(self.path, "pt") as file:
                    notes = file.metadata()
            except (OSError, SafetensorError) as error:
                raise ValueError(
                    f"{self.path} held the best weights so far and cannot be read ({error}); force=true starts over"
                ) from error
            self.best, self.epoch = float(notes["score"]), int(notes["epoch"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare; every process has the same score."""
        score = float(trainer.callback_metrics[SELECTED_BY])
        if score > self.best:
            self.best, self.epoch = score, trainer.current_epoch
            if trainer.is_global_zero:
                notes = {"score": repr(score), "epoch": str(self.epoch)}
                write_tensors(self.path, pl_module.get_submodule("embedder").state_dict(), notes)
            trainer.strategy.barrier("BestWeights")  # all of them will read it

    def restore(self, network: nn.Module) -> str:
        """Give a network the weights that were best; returns which those are, in words.

        Raises:
            ValueError: If no epoch was validated, or none with a score.
        """
        if self.epoch is None:
            raise ValueError(
                f"selection=best needs a validation with {SELECTED_BY}, and there was none: see "
                "trainer.check_val_every_n_epoch, or hold out classes with two images at least"
            )
        network.load_state_dict(load_file(self.path))
        return f"epoch {self.epoch}, the best by {SELECTED_BY}"


class PlainCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint where it is told, down to the disk.

    Lightning's own holds it in memory a second time, and passes it through the folder for temporary files.
    """

    def save_checkpoint(
        self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write one; what lies there is lost from the first byte on."""
        with Path(path).open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's own, on a full disk, in place of the system's
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
            file.flush()
            os.fsync(file.fileno())


class ResumeCheckpoint(Checkpoint):
    """Everything a killed run needs to go on to the numbers of one that was not, in `last.ckpt`.

    Written when an epoch ends, every so many minutes within one, and when a scheduler gives notice, which then ends the
    run. A file takes its place only when it is whole, and the one before it is kept as `previous.ckpt`. Of several
    processes the first writes, and all must see its folder.

    Args:
        run_dir: Where the two lie.
        every_min: Minutes between checkpoints within an epoch.
        share: Of the time, that writing those may take: after a slow one the next comes later.
    """

    def __init__(self, run_dir: str | Path, every_min: float = 10.0, share: float = 0.05) -> None:
        self.path = Path(run_dir) / CHECKPOINT
        self.previous = Path(run_dir) / PREVIOUS
        self.every_s = 60 * every_min
        self.share = share
        self._cost_s = 0.0
        self._saved = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock runs from here; a scheduler's notice can wait for the end of a step.

        Raises:
            ValueError: If processes have found different checkpoints.
        """
        here = torch.tensor([trainer.current_epoch, trainer.global_step], device=pl_module.device)
        places = trainer.strategy.all_gather(here).reshape(-1, 2)
        if (places != here).any():
            steps = ", ".join(map(str, places[:, 1].tolist()))
            raise ValueError(f"the processes go on from different steps ({steps}): all must see {self.path.parent}")
        self._saved = time.monotonic()
        NOTICE.listen_again()  # Lightning has put itself before it
        NOTICE.can_wait = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on it ends the process at once, as does one that came while the last checkpoint was written."""
        NOTICE.can_wait = False
        if NOTICE.given:
            raise Preempted(NOTICE.given)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning has put itself before it once more."""
        NOTICE.listen_again()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Nobody will look at a notice any more."""
        NOTICE.can_wait = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an optimizer step, unless the epoch ends or a validation follows, which a resumed run would miss."""
        batches = batch_idx + 1
        stepped = batches % trainer.accumulate_grad_batches == 0
        validates = batches % (trainer.val_check_batch or math.inf) == 0
        if stepped and not validates and not trainer.is_last_batch:
            waited = time.monotonic() - self._saved
            self._look(trainer, is_due=waited >= max(self.every_s, self._cost_s / self.share))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After the other callbacks, whose state it holds."""
        self._look(trainer, is_due=True)

    def _look(self, trainer: pl.Trainer, *, is_due: bool) -> None:
        """Write one if any process is of the opinion; end with it if any has been given notice."""

        def anyone(opinion: bool) -> bool:
            return trainer.strategy.reduce_boolean_decision(opinion, all=False)

        given = NOTICE.given is not None  # once: it may come between the two questions
        if not anyone(is_due or given):
            return
        self._save(trainer)
        if anyone(given):
            raise Preempted(NOTICE.given or "the notice that another process was given")

    def _save(self, trainer: pl.Trainer) -> None:
        begun = time.monotonic()
        partial = self.path.with_suffix(".partial")
        try:
            trainer.save_checkpoint(partial)
        except OSError as error:  # a full disk is no reason to lose what is in memory
            partial.unlink(missing_ok=True)
            log.warning("no checkpoint (%s): training goes on without", error)
            trainer.strategy.barrier("Trainer.save_checkpoint")  # where the others wait
        else:
            if trainer.is_global_zero:
                if self.path.exists():
                    self.path.replace(self.previous)
                partial.replace(self.path)
        self._saved = time.monotonic()
        self._cost_s = self._saved - begun
