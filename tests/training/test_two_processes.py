"""One run on two processes is the run of one: same parameters, same terms, same metrics, every row once."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from vectors import command, head

from tcm_bench.results import ledger


def rows(run_dir: Path) -> list[dict[str, float]]:
    with (run_dir / "history.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def assert_same_run(one: Path, other: Path) -> None:
    """The same training, terms, metrics, counts and stored rows, up to the rounding of another order of sums."""
    first, second = ledger.read_result(one), ledger.read_result(other)
    assert first.status == second.status == "finished"
    # Embeddings agree to float32's last digits, so a pair at a threshold may be accepted by one and not by the other.
    assert second.metrics == pytest.approx(first.metrics, abs=1e-3)
    assert second.counts == first.counts
    for row, same in zip(rows(one), rows(other), strict=True):
        assert same == pytest.approx(row, rel=1e-4, abs=1e-5)
    for name in ("weights.safetensors", "test_embeddings.safetensors"):
        tensors, same = load_file(one / name), load_file(other / name)
        assert tensors.keys() == same.keys()
        for key, value in tensors.items():
            np.testing.assert_allclose(same[key], value, rtol=1e-4, atol=1e-5, err_msg=f"{name} {key}")


PROXIES = ["loss=proxy_anchor", "data.num_train_classes=12", "optim.head_lr_scale=3"]
SGD = ["optim.optimizer._target_=torch.optim.SGD", "optim.optimizer.lr=0.1"]  # Adam is blind to a gradient's scale
UNEVEN = [*SGD, "machine.test_batch_size=7", "data.loader.seen_classes=5"]  # 120 and 50 rows, in batches of 6 or 7


def test_one_command_on_two_processes_gives_the_run_of_one(tmp_path, vectors, run):
    _, alone = run(tmp_path / "one", *UNEVEN)
    words = command(tmp_path / "two", *head(vectors), *UNEVEN, "machine.devices=2", "machine.strategy=ddp")
    ran = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    (shared,) = (tmp_path / "two" / "runs").iterdir()
    assert shared.name == alone.name  # how many processes do it decides no number
    assert_same_run(alone, shared)
    assert not (shared / "running.json").exists()
    assert ran.stderr.count("unseen classes: R@1") == 1
    assert "Warning" not in ran.stderr


def test_processes_started_by_torchrun_or_srun_share_a_run(tmp_path, vectors, run):
    """Proxies, whose gradients pass no gather; once, once more over the finished run, and an endless one, stopped."""
    settings = [*UNEVEN, *PROXIES]
    _, alone = run(tmp_path / "one", *settings)
    ddp = ["machine=ddp", "machine.accelerator=cpu", "machine.num_workers=0"]
    _, _, *words = command(tmp_path / "two", *head(vectors), *settings, *ddp)
    script = str(Path(__file__).parents[1] / "shared_run.py")
    ran = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "Warning" not in ran.stderr
    first, again, stopped, preempted = map(ledger.Result.model_validate_json, ran.stdout.splitlines())
    assert first.metrics == again.metrics
    assert first.wall_s != again.wall_s  # force=true did it again
    assert_same_run(alone, tmp_path / "two" / "runs" / alone.name)
    assert stopped.status == "interrupted"
    assert stopped.reason == "stopped by Ctrl-C or a signal"
    # What two processes have begun one takes to the end, from where a notice to the second alone has stopped them.
    assert preempted.status == "interrupted"
    begun = tmp_path / "two" / "runs" / preempted.run_id
    assert len(rows(begun)) < 30
    assert torch.load(begun / ledger.CHECKPOINT, weights_only=True)["global_step"] >= 5
    _, whole = run(tmp_path / "whole", *settings, "trainer.max_epochs=30")
    _, continued = run(tmp_path / "two", *settings, "trainer.max_epochs=30")
    assert continued.name == preempted.run_id
    assert_same_run(whole, continued)
