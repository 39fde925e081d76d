"""Offline W&B runs, uploaded by the real client to a server that notes what it is sent."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from composition import composition
from killed import killed_at
from training.offline_run import read_offline_run
from vectors import SMALL, head, write_vectors
from wandb_server import wandb_server

from tcm_bench.report.wandb_report import save_report
from tcm_bench.results import ledger
from tcm_bench.runs.run import execute

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
MAIN = "from tcm_bench.cli.command import main; main()"


def sent(output: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command, of somebody who has these variables and no other of W&B's."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    own = {"HOME": str(output), "NETRC": str(output / "netrc"), "WANDB_ERROR_REPORTING": "false", **environment}
    return subprocess.run(
        [sys.executable, "-c", MAIN, "wandb", *words, "--output-dir", str(output)],
        env=others | own,
        capture_output=True,
        text=True,
        check=False,
    )


def sync(output: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return sent(output, "sync", *words, **environment)


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


def run_of(seed: int, tcm: str) -> ledger.Result:
    weights = dict.fromkeys(("positive_weight", "negative_weight"), float(tcm != "none"))
    choices = {"data": "features", "backbone": "none", "loss": "smooth_ap", "tcm": tcm, "seed": seed}
    scores = {"recall_at_1": 0.5, "opis": 0.01, "opis_10pct": 0.02}
    return ledger.Result(
        run_id=f"{tcm}{seed}",
        comparison_id="same",
        choices=choices,
        science={"tcm": {"_target_": "tcm_bench.losses.tcm.TCM", **weights}},
        status="finished",
        metrics=scores | {f"{name}_seen": value for name, value in scores.items()},
        started="2026-01-01T00:00:00+00:00",
        wall_s=1.0,
        peak_mem_gib=1.0,
        threads=1,
        versions={},
        git={},
    )


def test_a_report_has_the_table_both_arms_and_their_curves(tmp_path):
    pytest.importorskip("wandb_workspaces")
    rows = [run_of(seed, tcm) for tcm in ("none", "paper") for seed in (0, 1)]
    for row in rows:
        (tmp_path / "runs" / row.run_id).mkdir(parents=True)
        ledger.write_result(tmp_path / "runs" / row.run_id, row)
    ledger.write_sweep(tmp_path, "tiny", rows)
    with wandb_server() as server:
        made = sent(tmp_path, "report", "tiny", WANDB_API_KEY="a" * 40, WANDB_BASE_URL=server.url)
        assert made.returncode == 0, made.stderr
        assert made.stdout == f"written: {server.url}/me/tcm_bench/reports/TCM:-tiny--Vmlldzox\n"
        (report,) = server.reports
    assert report["title"] == "TCM: tiny"
    (table,) = [block["content"] for block in report["blocks"] if block["type"] == "markdown-block"]
    assert "# TCM against its baseline: `tiny`" in table
    scatter, curves = [block["metadata"] for block in report["blocks"] if block["type"] == "panel-grid"]
    arms = {"without TCM": ["none0", "none1"], "with TCM": ["paper0", "paper1"]}
    for grid in (scatter, curves):
        found = {one["name"]: one["filters"]["filters"][0] for one in grid["runSets"]}
        assert {name: (one["key"]["name"], one["op"], one["value"]) for name, one in found.items()} == {
            name: ("name", "IN", runs) for name, runs in arms.items()
        }
    (panel,) = panels(scatter)
    assert (panel["viewType"], panel["config"]["xAxis"], panel["config"]["yAxis"]) == (
        "Scatter Plot",
        "summary:recall_at_1",
        "summary:opis",
    )
    drawn = [(panel["config"]["xAxis"], *panel["config"]["metrics"]) for panel in panels(curves)]
    assert ("epoch", "val/opis") in drawn
    assert {axis for axis, _ in drawn} == {"epoch"}


def panels(grid: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = grid["panelBankSectionConfig"]["panels"]
    return found


def test_without_the_package_a_report_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(ValueError, match="a W&B report needs wandb-workspaces: `make setup EXTRAS=cpu,dev,reports`"):
        save_report("tiny", [], [], "tcm_bench", None)
