"""Offline W&B runs, uploaded by the real client to a server that notes what it is sent."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from composition import composition
from killed import killed_at
from training.offline_run import read_offline_run
from vectors import SMALL, head, write_vectors
from wandb_server import wandb_server

from tcm_bench.runs.run import execute

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
MAIN = "from tcm_bench.cli.command import main; main()"


def sync(output: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command, of somebody who has these variables and no other of W&B's."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    own = {"HOME": str(output), "NETRC": str(output / "netrc"), "WANDB_ERROR_REPORTING": "false", **environment}
    return subprocess.run(
        [sys.executable, "-c", MAIN, "wandb", "sync", "--output-dir", str(output), *words],
        env=others | own,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def recorded(tmp_path):
    """A run that was killed and went on, one that failed, and the folder of one that was killed before it had begun."""
    words = [*SMALL, *head(write_vectors(tmp_path)), f"paths.output_dir={tmp_path}", "logger=wandb"]
    with killed_at(8):
        execute(*composition(*words))
    went_on = execute(*composition(*words)).run_id
    with killed_at(8):
        execute(*composition(*words, "seed=1"))
    failed = next(folder.name for folder in (tmp_path / "runs").iterdir() if folder.name != went_on)
    _ended(tmp_path)
    part = tmp_path / "runs" / "begun" / "wandb" / "offline-run-1-begun" / "run-begun.wandb"
    part.parent.mkdir(parents=True)
    part.touch()
    return went_on, failed


def _ended(output: Path) -> None:
    """Waits until W&B's process has written the end of every file, just after it has said so."""
    until = time.monotonic() + 60
    while any(read_offline_run(file).exit_code is None for file in output.glob("runs/*/wandb/offline-*/*.wandb")):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_every_offline_run_is_uploaded_once_as_one_run_with_its_whole_history(tmp_path, recorded):
    went_on, failed = recorded
    key = {"WANDB_API_KEY": "a" * 40}
    told = sync(tmp_path, "--dry-run", **key)
    assert told.returncode == 0, told.stderr
    parts = [f"runs/{run}/wandb/offline-run-" for run in sorted(recorded)]
    assert [line[: len(parts[0])] for line in told.stdout.splitlines() if line.startswith("runs/")] == parts
    assert "begun: killed before anything was written; the run's command goes on with it" in told.stdout.splitlines()
    assert told.stdout.splitlines()[-1] == "2 would be uploaded"
    with wandb_server() as server:
        first = sync(tmp_path, **key, WANDB_BASE_URL=server.url, WANDB_MODE="offline")
        assert first.returncode == 0, first.stderr
        assert first.stdout.splitlines()[-1] == "2 uploaded"
        steps = {run: [line["_step"] for _, line in sorted(lines.items())] for run, lines in server.history.items()}
        assert {run: steps[run][:2] for run in steps} == {went_on: [4, 9], failed: [4]}
        assert server.exit_codes == {went_on: 0, failed: 1}
        assert {"config", "code", "run_table"} == set(server.artifacts)
        assert {sent["name"] for sent in server.upserts} == {went_on, failed}
        assert {name.partition("_")[0] for name in server.files if name.endswith(".png")} == {"utility"}
        requests = server.requests
        again = sync(tmp_path, **key, WANDB_BASE_URL=server.url)
        assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "0 uploaded")
        assert server.requests == requests


def test_without_a_key_or_a_network_nothing_is_uploaded_and_why_is_one_sentence(tmp_path, recorded):
    without = sync(tmp_path)
    assert without.returncode == 1
    assert without.stderr == "error: nothing was uploaded: there is no API key for W&B (`wandb login`)\n"
    with wandb_server() as server:
        closed = server.url
    away = sync(tmp_path, WANDB_API_KEY="a" * 40, WANDB_BASE_URL=closed)
    assert away.returncode == 1
    assert away.stderr == f"error: nothing was uploaded: {closed.removeprefix('http://')} cannot be reached\n"
