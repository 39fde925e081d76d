"""Sweeps as a person runs them: real processes, killed and interrupted."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from answers import Answer, answer
from vectors import command, head, wait_for, write_vectors

import tcm_bench.runs.experiment  # noqa: F401 - here once, instead of in every fork
from tcm_bench.process import PREEMPTED
from tcm_bench.results import ledger
from tcm_bench.runs.run import main

GRID = ["tcm=none,paper", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "sweep_name=tiny"]


@pytest.fixture(scope="session")
def vectors(tmp_path_factory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("vectors"))


def rows(output: Path) -> dict[str, ledger.Result]:
    return {row.run_id: row for row in ledger.results(sorted((output / "runs").iterdir()))}


def sweep(output: Path, *overrides: str) -> Answer:
    """The runs in two processes at a time."""
    return answer(main, [*command(output, *GRID, *overrides)[2:], "-m"])


def here(output: Path, *overrides: str, cwd: Path | None = None) -> Answer:
    """The same runs one after the other, by Hydra's own launcher: for what does not depend on processes."""
    rest = [word for word in GRID if not word.startswith("hydra")]
    return answer(main, [*command(output, *rest, *overrides)[2:], "-m"], cwd)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, vectors) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    ran = here(output, *head(vectors))
    assert ran.status == 0, ran.stderr
    (output / "stdout.txt").write_text(ran.stdout)
    return output


def test_a_sweep_ends_in_a_table_and_files(undisturbed):
    assert len(rows(undisturbed)) == 4
    listed = {run.run_id: run for run in ledger.read_sweep(undisturbed / "sweeps" / "tiny.json").runs}
    assert {name: ledger.Run(**dict(row)) for name, row in rows(undisturbed).items()} == listed
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


def test_a_killed_sweep_goes_on_in_processes_to_the_rows_of_one_after_the_other_and_is_not_repeated(
    tmp_path, vectors, undisturbed
):
    with subprocess.Popen(command(tmp_path, *GRID, *head(vectors), "-m"), stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: (tmp_path / "runs").exists() and len(rows(tmp_path)) >= 1, process)
        process.send_signal(signal.SIGKILL)
    ran = sweep(tmp_path, *head(vectors))
    assert ran.status == 0, ran.stderr
    found = rows(tmp_path)
    assert {row.threads for row in found.values()} == {1}
    assert {k: r.metrics for k, r in found.items()} == {k: r.metrics for k, r in rows(undisturbed).items()}
    again = sweep(tmp_path, *head(vectors))
    assert again.status == 0
    assert "all 4 runs are finished already" in again.stderr
    assert rows(tmp_path) == found


def test_a_larger_sweep_takes_over_what_is_done_and_says_so_in_one_place(tmp_path, vectors, undisturbed):
    output = shutil.copytree(undisturbed, tmp_path / "copy")
    ran = here(output, *head(vectors), "seed=0,1,2")
    assert ran.status == 0, ran.stderr
    assert len(rows(output)) == 6
    assert rows(undisturbed).items() <= rows(output).items()
    assert "force=true" not in ran.stderr  # what jobs say goes to their logs; the terminal is the display's


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGUSR2])
def test_ctrl_c_and_a_scheduler_end_every_process_and_a_second_call_continues(tmp_path, vectors, sent):
    longer = [*head(vectors), "trainer.max_epochs=2000"]
    process = subprocess.Popen(
        command(tmp_path, *GRID, *longer, "-m"), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        wait_for(lambda: len(list(tmp_path.glob("runs/*/history.csv"))) >= 2, process)
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)  # what a terminal does
        else:
            process.send_signal(sent)
        _, stderr = process.communicate(timeout=90)
    assert process.returncode == (130 if sent == signal.SIGINT else PREEMPTED)
    assert re.search(r"(interrupted|stopped by SIGUSR2); the same command goes on from here$", stderr.rstrip())
    assert "Traceback" not in stderr
    if sent == signal.SIGUSR2:
        reasons = [row.reason for row in rows(tmp_path).values()]
        assert reasons == ["stopped by SIGUSR2"] * 2
        assert len(list(tmp_path.glob("runs/*/last.ckpt"))) == 2
    states = {ledger.state(run_dir) for run_dir in tmp_path.glob("runs/*")}
    assert states <= {"interrupted", "stale", "absent"}
    assert "interrupted" in states


def unnamed(output: Path, *overrides: str, cwd: Path | None = None) -> tuple[str, pd.DataFrame]:
    """Runs a sweep that was given no name; returns what it printed and its table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "150")
        ran = answer(main, [*command(output, *overrides)[2:], "-m"], cwd)
    assert ran.status == 0, ran.stderr
    (name,) = re.findall(r"report/(\S+)\.csv", ran.stderr.replace("\n", ""))
    return ran.stdout, pd.read_csv(output / "report" / f"{name}.csv")


def test_a_sweep_of_margins_ends_in_a_table_with_a_row_for_each(tmp_path, vectors):
    margins = ["tcm=none,paper", "tcm.negative_margin=0.3,0.4", *head(vectors)]
    shown, table = unnamed(tmp_path, *margins)
    assert table["tcm"].tolist() == ["own negative_margin=0.3", "own negative_margin=0.4"]
    assert table["seeds"].tolist() == [1, 1]
    assert table["opis_base"].nunique() == 1  # one base for both
    assert table["opis_tcm"].nunique() == 2
    for variant in ("negative_margin=0.3", "negative_margin=0.4"):
        assert variant in shown
        (report,) = (tmp_path / "report").glob("*.md")
        assert variant in report.read_text()


def test_sweeps_without_a_name_keep_their_tables_apart_and_find_them_again(tmp_path, vectors):
    rates = ["tcm=none,paper", "optim.optimizer.lr=1e-3,1e-2", *head(vectors)]
    shown, table = unnamed(tmp_path, *rates)
    assert table["setting"].tolist() == ["lr=0.001", "lr=0.01"]
    assert table["opis_base"].nunique() == table["opis_tcm"].nunique() == 2
    assert "lr=0.001" in shown
    files = {path: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    _, dimensions = unnamed(tmp_path, "tcm=none,paper", *head(vectors), "model.head.embedding_dim=8,16")
    assert dimensions["setting"].tolist() == ["embedding_dim=8", "embedding_dim=16"]
    again, _ = unnamed(tmp_path, *rates)
    assert again == shown
    assert {path: path.read_bytes() for path in files} == files
    lists = sorted(path.stem for path in (tmp_path / "sweeps").iterdir())
    assert lists == sorted(path.stem for path in (tmp_path / "report").glob("*.csv"))
    assert [name.rpartition("-")[0] for name in lists] == ["tcm-embedding_dim", "tcm-lr"]


def test_shares_of_worst_classes_can_be_swept(tmp_path, vectors):
    _, table = unnamed(tmp_path, "tcm=none,paper", "metrics.evaluation.eps=0.1,0.25", *head(vectors))
    assert table["setting"].tolist() == ["eps=0.1", "eps=0.25"]
    assert table["opis_10pct_base"].notna().tolist() == [True, False]
    assert table["opis_25pct_tcm"].notna().tolist() == [False, True]


def test_an_edit_of_ones_own_code_is_seen_by_the_processes_of_a_sweep(tmp_path, vectors):
    code = tmp_path / "code"
    code.mkdir()
    grid = ["tcm=none,paper", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1", *head(vectors)]
    grid += ["loss._target_=own_loss.Loss", "trusted_packages=[own_loss]"]
    for temperature in (0.01, 0.5):
        source = f"super().__init__(temperature={temperature})"
        source = f"class Loss(SmoothAP):\n    def __init__(self, temperature):\n        {source}\n"
        (code / "own_loss.py").write_text(f"from tcm_bench.losses.smooth_ap import SmoothAP\n\n{source}")
        _, table = unnamed(tmp_path, *grid, cwd=code)
        assert table["loss"].tolist() == ["own_loss.Loss"]
    opis = [row.metrics["opis"] for row in rows(tmp_path).values()]
    assert len(set(opis)) == len(opis) == 4


def test_a_failure_is_a_row_and_the_others_go_on(tmp_path, vectors):
    ran = here(tmp_path, *head(vectors), "data.num_train_classes=12,99", "seed=0")
    assert ran.status == 1
    statuses = sorted(row.status for row in rows(tmp_path).values())
    assert statuses == ["failed", "failed", "finished", "finished"]
    assert re.search(r"data\.num_train_classes=99 is declared", ran.stdout + ran.stderr)
    assert "Traceback" not in ran.stderr


DEADLY = """
import os, signal
from pathlib import Path
from tcm_bench.losses.smooth_ap import SmoothAP

class Deadly(SmoothAP):
    def forward(self, *pairs):
        if not Path(os.environ["CURED"]).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(*pairs)
"""


def test_a_killed_process_takes_no_other_run_with_it_and_the_same_command_goes_on(tmp_path, vectors, monkeypatch):
    (tmp_path / "deadly.py").write_text(DEADLY)
    ours = "tcm_bench.losses.smooth_ap.SmoothAP"
    words = [*head(vectors), "trusted_packages=[deadly]", f"loss._target_=deadly.Deadly,{ours}", "seed=0"]
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CURED", str(tmp_path / "cured"))
    ran = sweep(tmp_path, *words)
    assert ran.status == 1
    assert "Traceback" not in ran.stderr
    states = {run_dir.name: ledger.state(run_dir) for run_dir in tmp_path.glob("runs/*")}
    assert sorted(states.values()) == ["finished"] * 2 + ["stale"] * 2
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("killed in the middle")]
    assert {name for name in states if name in line} == {k for k, state in states.items() if state == "stale"}
    assert line.endswith("the same command goes on from there")
    assert (tmp_path / "report" / "tiny.md").exists()
    finished = rows(tmp_path)
    (tmp_path / "cured").touch()
    ran = here(tmp_path, *words)
    assert ran.status == 0, ran.stderr
    assert len(rows(tmp_path)) == 4
    assert finished.items() <= rows(tmp_path).items()  # what had finished was not touched
