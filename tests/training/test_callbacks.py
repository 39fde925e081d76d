"""What a run writes while it trains."""

import csv
import itertools
import json
import os
from types import SimpleNamespace

import pytest
import torch

from tcm_bench.training.callbacks import CHECKPOINT, HISTORY, History, ProgressFile
from tcm_bench.training.module import RetrievalModule

TERMS = ("loss", "base", "tcm", "tcm_positive", "tcm_negative", "hard_positives", "hard_negatives")


def read(run_dir) -> list[dict[str, str]]:
    with (run_dir / HISTORY).open() as file:
        return list(csv.DictReader(file))


class Killed(RuntimeError):
    """In place of a kill in the middle of an epoch."""


def kill_in_the_third_epoch(patched) -> None:
    """End training at its 13th step, where an epoch has five."""
    step, steps = RetrievalModule.training_step, itertools.count(1)

    def killed(self, batch, batch_idx):
        if next(steps) == 13:
            raise Killed
        return step(self, batch, batch_idx)

    patched.setattr(RetrievalModule, "training_step", killed)


def test_a_network_with_dropout_resumes_to_the_weights_of_one_never_killed(tmp_path, run, monkeypatch):
    longer = ["trainer.max_epochs=4"]
    embed = RetrievalModule.embed
    monkeypatch.setattr(RetrievalModule, "embed", lambda self, x: embed(self, torch.nn.functional.dropout(x, 0.5)))
    _, whole = run(tmp_path / "whole", *longer)
    with monkeypatch.context() as patched:
        kill_in_the_third_epoch(patched)
        with pytest.raises(Killed):
            run(tmp_path / "cut", *longer)
    _, cut = run(tmp_path / "cut", *longer)
    assert (cut / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_history_has_a_row_an_epoch_and_goes_on_after_a_kill_as_if_there_was_none(tmp_path, run, monkeypatch):
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

    with monkeypatch.context() as patched:
        kill_in_the_third_epoch(patched)
        with pytest.raises(Killed):
            run(tmp_path / "cut", *longer)
    cut = tmp_path / "cut" / "runs" / whole.name
    assert read(cut) == rows[:2]
    state = torch.load(cut / CHECKPOINT, weights_only=True)  # nothing in it that could run code
    assert state["global_step"] == 10
    assert len(state["callbacks"]["History"]["rows"]) == 2
    run(tmp_path / "cut", *longer)
    assert (cut / HISTORY).read_bytes() == (whole / HISTORY).read_bytes()
    assert not (cut / CHECKPOINT).exists()


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
