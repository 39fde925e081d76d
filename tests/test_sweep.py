"""Sweeps as a person runs them: real processes, killed and interrupted."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from vectors import command, head, write_vectors

from tcm_bench import ledger

GRID = ["tcm=none,paper", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "sweep_name=tiny"]


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("vectors"))


def rows(output: Path) -> dict[str, ledger.Result]:
    return {row.run_id: row for row in ledger.results(sorted((output / "runs").iterdir()))}


def sweep(output: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(output, *GRID, *overrides, "-m"), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, vectors) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    ran = sweep(output, *head(vectors))
    assert ran.returncode == 0, ran.stderr
    (output / "stdout.txt").write_text(ran.stdout)
    return output


def test_a_sweep_ends_in_a_table_and_files(undisturbed):
    assert len(rows(undisturbed)) == 4
    listed = json.loads((undisturbed / "sweeps" / "tiny.json").read_text())
    assert {run["run_id"] for run in listed["runs"]} == set(rows(undisturbed))
    table = pd.read_csv(undisturbed / "report" / "tiny.csv")
    expected = "data,backbone,loss,seeds,recall_at_1_before,recall_at_1_base,recall_at_1_tcm,"
    expected += "opis_base,opis_tcm,opis_10pct_base,opis_10pct_tcm"
    assert ",".join(table.columns).startswith(expected)
    (row,) = table.to_dict("records")
    assert (row["data"], row["loss"], row["seeds"]) == ("features", "smooth_ap", 2)
    base = [r.metrics["opis"] for r in rows(undisturbed).values() if r.choices["tcm"] == "none"]
    assert row["opis_base"] == pytest.approx(sum(base) / 2, rel=1e-12)
    assert "smooth_ap" in (undisturbed / "report" / "tiny.md").read_text()
    assert "smooth_ap" in (undisturbed / "stdout.txt").read_text()


def test_each_process_of_a_sweep_keeps_to_one_thread(undisturbed):
    assert {row.threads for row in rows(undisturbed).values()} == {1}


def test_a_finished_sweep_is_not_repeated(undisturbed, vectors):
    before = rows(undisturbed)
    ran = sweep(undisturbed, *head(vectors))
    assert ran.returncode == 0
    assert "all 4 runs are finished already" in ran.stderr
    assert rows(undisturbed) == before


def test_a_larger_sweep_takes_over_what_is_done_and_says_so_in_one_place(tmp_path, vectors, undisturbed):
    output = shutil.copytree(undisturbed, tmp_path / "copy")
    ran = sweep(output, *head(vectors), "seed=0,1,2")
    assert ran.returncode == 0, ran.stderr
    assert len(rows(output)) == 6
    assert rows(undisturbed).items() <= rows(output).items()
    assert "force=true" not in ran.stderr  # what jobs say goes to their logs; the terminal is the display's


def test_a_killed_sweep_goes_on_to_the_numbers_of_an_undisturbed_one(tmp_path, vectors, undisturbed):
    with subprocess.Popen(command(tmp_path, *GRID, *head(vectors), "-m"), stderr=subprocess.DEVNULL) as process:
        _wait_for(lambda: (tmp_path / "runs").exists() and len(rows(tmp_path)) >= 1, process)
        process.send_signal(signal.SIGKILL)
    ran = sweep(tmp_path, *head(vectors))
    assert ran.returncode == 0, ran.stderr
    after, whole = rows(tmp_path), rows(undisturbed)
    assert {k: r.metrics for k, r in after.items()} == {k: r.metrics for k, r in whole.items()}


def test_ctrl_c_ends_every_process_and_a_second_call_continues(tmp_path, vectors):
    longer = [*head(vectors), "trainer.max_epochs=2000"]
    process = subprocess.Popen(
        command(tmp_path, *GRID, *longer, "-m"), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        _wait_for(lambda: len(list(tmp_path.glob("runs/*/history.csv"))) >= 2, process)
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does
        _, stderr = process.communicate(timeout=90)
    assert process.returncode == 130
    assert stderr.rstrip().endswith("interrupted; the same command goes on from here")
    assert "Traceback" not in stderr
    states = {ledger.state(run_dir) for run_dir in tmp_path.glob("runs/*")}
    assert states <= {"interrupted", "pending"}
    assert "interrupted" in states


def test_a_failure_is_a_row_and_the_others_go_on(tmp_path, vectors):
    ran = sweep(tmp_path, *head(vectors), "data.num_train_classes=12,99", "seed=0")
    assert ran.returncode == 1
    statuses = sorted(row.status for row in rows(tmp_path).values())
    assert statuses == ["failed", "failed", "finished", "finished"]
    assert re.search(r"data\.num_train_classes=99 is declared", ran.stdout + ran.stderr)
    assert "Traceback" not in ran.stderr


def _wait_for(condition, process, limit_s=120.0):
    until = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, "the sweep ended before it could be stopped"
        assert time.monotonic() < until
        time.sleep(0.02)
