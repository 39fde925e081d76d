"""What a run writes while it trains."""

import csv
import json
import os
import resource
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from killed import killed_at

from tcm_bench.results.ledger import BEST, CHECKPOINT, HISTORY, PREVIOUS, RESULT
from tcm_bench.training.callbacks import History, PlainCheckpoints, ProgressFile, StepTime
from tcm_bench.training.module import RetrievalModule

TERMS = ("loss", "base", "tcm", "tcm_positive", "tcm_negative", "hard_positives", "hard_negatives")


def read(run_dir) -> list[dict[str, str]]:
    with (run_dir / HISTORY).open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def killed(tmp_path, run):
    """Runs a configuration into `cut` and ends its training at a step of the third epoch, where an epoch has five."""

    def once(*overrides: str, at: int = 13) -> None:
        with killed_at(at):
            run(tmp_path / "cut", *overrides)

    return once


def test_a_network_with_dropout_resumes_to_the_weights_of_one_never_killed(tmp_path, run, monkeypatch, killed):
    longer = ["trainer.max_epochs=4"]
    embed = RetrievalModule.embed
    monkeypatch.setattr(RetrievalModule, "embed", lambda self, x: embed(self, torch.nn.functional.dropout(x, 0.5)))
    _, whole = run(tmp_path / "whole", *longer)
    killed(*longer)
    _, cut = run(tmp_path / "cut", *longer)
    assert (cut / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_history_has_a_row_an_epoch_and_goes_on_after_a_kill_as_if_there_was_none(tmp_path, run, killed):
    longer = ["trainer.max_epochs=4", "data.loader.validation_classes=3"]
    _, whole = run(tmp_path / "whole", *longer)
    rows = read(whole)
    assert list(rows[0])[:3] == ["epoch", "step", "lr"]
    assert {name for name in rows[0] if name.startswith("train/")} == {f"train/{name}" for name in TERMS}
    assert "val/recall_at_1" in rows[0]
    assert "val/opis" in rows[0]
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "5"), ("1", "10"), ("2", "15"), ("3", "20")]
    assert float(rows[0]["lr"]) == pytest.approx(1e-3 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * 4 / 20)).item()))
    for row in rows:
        assert float(row["train/loss"]) == pytest.approx(float(row["train/base"]) + float(row["train/tcm"]), rel=1e-5)

    killed(*longer)
    cut = tmp_path / "cut" / "runs" / whole.name
    assert read(cut) == rows[:2]
    state = torch.load(cut / CHECKPOINT, weights_only=True)  # nothing in it that could run code
    assert state["global_step"] == 10
    assert len(state["callbacks"]["History"]["rows"]) == 2
    run(tmp_path / "cut", *longer)
    assert (cut / HISTORY).read_bytes() == (whole / HISTORY).read_bytes()
    assert not (cut / CHECKPOINT).exists()


EVERY_STEP = ["callbacks.checkpoint.every_min=0", "callbacks.checkpoint.share=1e9"]


def steps_of(checkpoint) -> int:
    return torch.load(checkpoint, weights_only=True)["global_step"]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_run_killed_within_an_epoch_goes_on_from_there(tmp_path, run, monkeypatch, killed, accumulated):
    """Without the steps before it, whose terms still count in the epoch's mean."""
    longer = ["trainer.max_epochs=4", f"+trainer.accumulate_grad_batches={accumulated}", *EVERY_STEP]
    embed = RetrievalModule.embed
    monkeypatch.setattr(RetrievalModule, "embed", lambda self, x: embed(self, torch.nn.functional.dropout(x, 0.5)))
    _, whole = run(tmp_path / "whole", *longer)
    killed(*longer)
    cut = tmp_path / "cut" / "runs" / whole.name
    assert steps_of(cut / CHECKPOINT) == {1: 12, 2: 7}[accumulated]  # of batches: 5, 5, 2
    assert steps_of(cut / PREVIOUS) == {1: 11, 2: 6}[accumulated]
    with monkeypatch.context() as patched:
        batches = []
        step = RetrievalModule.training_step
        patched.setattr(RetrievalModule, "training_step", lambda *args: (batches.append(args[2]), step(*args))[1])
        run(tmp_path / "cut", *longer)
    assert batches == [2, 3, 4, 0, 1, 2, 3, 4]
    for name in (HISTORY, "weights.safetensors"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_what_was_validated_within_an_epoch_is_not_lost_to_a_kill(tmp_path, run, killed):
    """Nor is a validation passed over: no checkpoint is written between it and its step."""
    longer = ["data.loader.validation_classes=3", "+trainer.val_check_interval=2", "trainer.max_epochs=4", *EVERY_STEP]
    _, whole = run(tmp_path / "whole", *longer)
    killed(*longer, at=14)  # after the validation of its second step
    cut = tmp_path / "cut" / "runs" / whole.name
    assert steps_of(cut / CHECKPOINT) == 13
    assert steps_of(cut / PREVIOUS) == 11
    run(tmp_path / "cut", *longer)
    assert (cut / HISTORY).read_bytes() == (whole / HISTORY).read_bytes()


def test_the_best_epochs_weights_are_evaluated_also_after_a_kill(tmp_path, run, killed):
    """At such a rate the last epoch is not the best."""
    longer = ["data.loader.validation_classes=3", "trainer.max_epochs=4", "optim.optimizer.lr=0.3", "selection=best"]
    result, whole = run(tmp_path / "whole", *longer)
    found = [float(row["val/recall_at_1"]) for row in read(whole)]
    best = found.index(max(found))
    assert result.selection == f"epoch {best}, the best by val/recall_at_1"
    assert result.metrics["recall_at_1_val"] == pytest.approx(max(found))
    assert result.metrics["recall_at_1_val"] != pytest.approx(found[-1])
    last, of_last = run(tmp_path / "last", *longer, "selection=last")
    assert last.selection == "last epoch"
    assert last.metrics["recall_at_1_val"] == pytest.approx(found[-1])
    weights = [(folder / "weights.safetensors").read_bytes() for folder in (whole, of_last)]
    assert weights[0] != weights[1]

    killed(*longer)
    cut = tmp_path / "cut" / "runs" / whole.name
    assert (cut / BEST).exists()
    run(tmp_path / "cut", *longer)
    assert (cut / "weights.safetensors").read_bytes() == weights[0]
    assert not (cut / BEST).exists()


def test_a_run_limited_in_steps_starts_over(tmp_path, run, killed):
    longer = ["+trainer.max_steps=14", "trainer.max_epochs=4", *EVERY_STEP]
    _, whole = run(tmp_path / "whole", *longer)
    killed(*longer)
    run(tmp_path / "cut", *longer)
    cut = tmp_path / "cut" / "runs" / whole.name
    assert [row["step"] for row in read(cut)] == ["5", "10", "14"]
    assert (cut / HISTORY).read_bytes() == (whole / HISTORY).read_bytes()


def cut_short(content: bytes) -> bytes:
    return content[:-500]


def with_an_empty_page(content: bytes) -> bytes:
    """In the midst of a tensor, as a power cut leaves it: torch reads it as if it were whole."""
    found = content.index(b"data/0")  # the head's weights, 32 x 16 numbers
    return content[: found + 500] + bytes(500) + content[found + 1000 :]


def nothing(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damaged", [cut_short, with_an_empty_page, nothing])
def test_a_checkpoint_that_is_damaged_leaves_the_one_before_it(tmp_path, run, killed, damaged):
    longer = ["trainer.max_epochs=4", *EVERY_STEP]
    _, whole = run(tmp_path / "whole", *longer)
    killed(*longer)
    cut = tmp_path / "cut" / "runs" / whole.name
    good = (cut / PREVIOUS).read_bytes()
    (cut / CHECKPOINT).write_bytes(damaged((cut / CHECKPOINT).read_bytes()))
    with killed_at(2):  # the next one is written, and the damaged one not kept in the place of the good one
        run(tmp_path / "cut", *longer)
    assert (cut / PREVIOUS).read_bytes() == good
    run(tmp_path / "cut", *longer)
    assert (cut / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    assert not list(cut.glob("*.ckpt"))


def test_a_full_disk_costs_a_checkpoint_and_nothing_else(tmp_path, run, monkeypatch, caplog):
    def full(self, path, *args, **kwargs):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    _, whole = run(tmp_path / "whole")
    monkeypatch.setattr(pl.Trainer, "save_checkpoint", full)
    _, other = run(tmp_path / "full")
    assert "no checkpoint ([Errno 28] No space left on device): training goes on without" in caplog.text
    assert (other / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    assert not list(other.glob("*.partial"))


def test_a_checkpoint_that_the_system_refuses_is_told_as_its_refusal(tmp_path):
    """Not as torch's, of which nobody would know that it is the disk."""
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, largest[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            PlainCheckpoints().save_checkpoint({"weights": torch.zeros(100_000)}, tmp_path / CHECKPOINT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, largest)


def test_a_history_that_cannot_be_written_costs_no_training(tmp_path, run, caplog):
    _, whole = run(tmp_path / "whole")
    (tmp_path / "other" / "runs" / whole.name / HISTORY / "in the way").mkdir(parents=True)
    result, _ = run(tmp_path / "other")
    assert result.status == "finished"
    assert "history.csv ([Errno" in caplog.text


def test_best_weights_that_are_gone_are_told(tmp_path, run, killed):
    longer = ["data.loader.validation_classes=3", "trainer.max_epochs=4", "selection=best"]
    killed(*longer)
    (best,) = (tmp_path / "cut" / "runs").glob(f"*/{BEST}")
    best.write_bytes(b"")
    with pytest.raises(ValueError, match=r"best\.safetensors held the best weights so far and cannot be read .*force"):
        run(tmp_path / "cut", *longer)


def test_what_a_kill_has_left_of_a_finished_run_is_removed(tmp_path, run):
    """Between the row and the checkpoints."""
    _, folder = run(tmp_path)
    (folder / CHECKPOINT).touch()
    run(tmp_path)
    assert not (folder / CHECKPOINT).exists()
    assert (folder / RESULT).exists()


def test_progress_file_says_how_far_training_is_but_not_at_every_step(tmp_path):
    trainer = SimpleNamespace(is_global_zero=True, global_step=3, estimated_stepping_batches=20)
    callback = ProgressFile(tmp_path, every_s=3600)
    callback.on_train_batch_end(trainer)
    trainer.global_step = 4
    callback.on_train_batch_end(trainer)  # too soon
    said = json.loads((tmp_path / "running.json").read_text())
    assert (said["stage"], said["done"], said["total"], said["pid"]) == ("train", 3, 20, os.getpid())
    callback.every_s = 0
    callback.on_train_batch_end(trainer)
    assert json.loads((tmp_path / "running.json").read_text())["done"] == 4
    trainer.is_global_zero, trainer.global_step = False, 5
    callback.on_train_batch_end(trainer)
    assert json.loads((tmp_path / "running.json").read_text())["done"] == 4


def test_the_first_report_is_written_on_a_machine_that_has_just_started(tmp_path, monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 0.01)  # it counts from there
    trainer = SimpleNamespace(is_global_zero=True, global_step=1, estimated_stepping_batches=20)
    ProgressFile(tmp_path).on_train_batch_end(trainer)
    assert json.loads((tmp_path / "running.json").read_text())["done"] == 1


def test_history_of_another_process_is_not_written(tmp_path):
    History(tmp_path).on_train_epoch_end(
        SimpleNamespace(is_global_zero=False, logged_metrics={"train/lr": 1.0}, current_epoch=0, global_step=1), None
    )
    assert not (tmp_path / HISTORY).exists()


def test_the_time_between_two_epochs_is_no_step_of_training(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 100.0, 103.0])
    monkeypatch.setattr("tcm_bench.training.callbacks.time.perf_counter", lambda: next(clock))
    steps = StepTime()
    assert steps.median_s is None
    for batches in (3, 2):
        steps.on_train_epoch_start(None, None)
        for _ in range(batches):
            steps.on_train_batch_end(None)
    assert steps.seconds == [1.0, 2.0, 3.0]
    assert steps.median_s == 2.0
