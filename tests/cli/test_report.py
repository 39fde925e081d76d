"""`tcm-bench status`, `report`, `curves`, `circle` and `pareto`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from tcm_bench.cli.app import app
from tcm_bench.results import ledger

LABELS = torch.arange(8).repeat_interleave(4)


def finished(tcm, seed, **changes):
    choices = {"data": "emoji", "backbone": "resnet50", "loss": "smooth_ap", "tcm": tcm, "seed": seed}
    values = {
        "status": "finished",
        "run_id": {"none": "aa", "paper": "ab"}[tcm] + f"{seed:010d}",
        "comparison_id": "c" * 12,
        "choices": choices,
        "metrics": {"recall_at_1": 0.5, "opis": 0.03 if tcm == "none" else 0.024, "opis_10pct": 0.1},
        "threshold": {"axis": "distance", "num_thresholds": 101, "c": 1.0, "threshold_low": 0.9, "threshold_high": 1.2},
        "started": "2026-01-01T00:00:00+00:00",
        "wall_s": 2.0,
        "peak_mem_gib": 0.1,
        "threads": 1,
        "versions": {},
        "git": {},
    }
    return ledger.Result(**{**values, **changes})


@pytest.fixture
def outputs(tmp_path):
    """Two seeds of one comparison, listed as the sweep `mini`; seed 1's TCM run is still missing."""
    planned = []
    for tcm in ("none", "paper"):
        for seed in (0, 1):
            result = finished(tcm, seed)
            planned.append(result)
            if (tcm, seed) == ("paper", 1):
                continue
            folder = tmp_path / "runs" / result.run_id
            ledger.write_result(folder, result)
            x = torch.randn(32, 8, generator=torch.Generator().manual_seed(seed))
            tensors = {"embeddings": torch.nn.functional.normalize(x), "labels": LABELS, "indices": torch.arange(32)}
            save_file(tensors, folder / "test_embeddings.safetensors")
    ledger.write_sweep(tmp_path, "mini", planned)
    return tmp_path


@pytest.fixture
def tcm_bench(outputs, monkeypatch):
    """Runs a command line on `outputs`."""
    monkeypatch.setenv("COLUMNS", "120")
    return lambda *words: CliRunner().invoke(app, [*words, "--output-dir", str(outputs)])


def sentence(done, status=1):
    """The one line on stderr of a command that could not be done."""
    assert done.exit_code == status
    (line,) = done.stderr.splitlines()
    return line


def test_status_lists_every_run_and_counts_them(tcm_bench, outputs):
    failed = finished("none", 2, status="failed", reason="ValueError: no such thing")
    ledger.write_result(outputs / "runs" / failed.run_id, failed)
    ledger.write_progress(outputs / "runs" / "alive", "train", 3, 20)
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    killed = ledger.read_progress(outputs / "runs" / "alive").model_copy(update={"pid": int(ended.stdout)})
    ledger.write_atomic(outputs / "runs" / "killed" / ledger.RUNNING, killed.model_dump_json())
    ledger.write_atomic(outputs / "runs" / "broken" / ledger.RESULT, "{}")
    done = tcm_bench("status")
    assert done.exit_code == 0, done.output
    lines = {line.split()[0]: line for line in done.output.splitlines() if line.strip()}
    assert lines["aa0000000000"].split()[1:] == ["finished", "emoji", "resnet50", "smooth_ap", "none", "0", "2", "s"]
    assert lines["ab0000000001"].split()[1:3] == ["absent", "emoji"]  # planned, and nothing there yet
    assert lines["alive"].split() == ["alive", "running", *"–––––", "train", "3/20"]
    assert lines["killed"].split()[1] == "stale"
    assert lines["broken"].split()[1] == "unreadable"
    assert "ended without a word" in lines["killed:"]
    assert lines["aa0000000002:"] == "aa0000000002: ValueError: no such thing"
    assert "is not a result of tcm_bench" in lines["broken:"]
    assert lines["8"] == "8 runs: 1 absent, 1 failed, 3 finished, 1 running, 1 stale, 1 unreadable, 6 s left"


def test_status_of_nothing_says_how_to_begin(tmp_path):
    done = CliRunner().invoke(app, ["status", "--output-dir", str(tmp_path / "new")])
    assert "python train.py" in sentence(done)


def test_report_prints_the_table_and_writes_it(tcm_bench, outputs):
    done = tcm_bench("report", "mini")
    assert done.exit_code == 0, done.output
    assert "30.0 → 24.0 ↓ -20.0%" in done.output
    assert "no result yet" in done.output
    header, row = (outputs / "report" / "mini.csv").read_text().splitlines()
    assert header.startswith("data,backbone,loss,seeds,")
    assert row.startswith("emoji,resnet50,smooth_ap,1,,0.5,0.5,0.03,0.024,")
    assert str(outputs / "report" / "mini.md") in done.output
    assert "no result yet" in (outputs / "report" / "mini.md").read_text()


def test_report_folds_several_sweeps_as_one(tcm_bench, outputs):
    """The baseline in one, TCM in another, and a run in both."""
    runs = [finished(tcm, 0) for tcm in ("none", "paper")]
    ledger.write_sweep(outputs, "base", runs[:1])
    ledger.write_sweep(outputs, "tcm", runs)
    done = tcm_bench("report", "base", "tcm")
    assert done.exit_code == 0, done.output
    (row,) = (outputs / "report" / "base-tcm.csv").read_text().splitlines()[1:]
    assert row.startswith("emoji,resnet50,smooth_ap,1,,0.5,0.5,0.03,0.024,")


def test_report_of_an_unknown_sweep_names_the_known_ones(tcm_bench):
    line = sentence(tcm_bench("report", "mni"))
    assert "no sweep 'mni'" in line
    assert line.endswith("sweeps there: mini")


@pytest.mark.parametrize("text", ["", "[]", '{"runs": [{"run_id": "x"}]}'])
def test_a_damaged_list_of_a_sweep_is_a_sentence(tcm_bench, outputs, text):
    (outputs / "sweeps" / "mini.json").write_text(text)
    assert "is not the list of a sweep" in sentence(tcm_bench("report", "mini"))


@pytest.mark.parametrize("by", ["id", "prefix", "folder"])
def test_curves_finds_runs_by_id_prefix_or_folder(tcm_bench, outputs, by):
    base = {"id": "aa0000000000", "prefix": "aa0000000000"[:12], "folder": str(outputs / "runs" / "aa0000000000")}[by]
    tcm = "ab" if by == "prefix" else "ab0000000000"
    out = outputs / "pictures" / "curves.png"
    done = tcm_bench("curves", base, tcm, "--out", str(out))
    assert done.exit_code == 0, done.output
    assert out.stat().st_size > 5_000
    assert str(out) in done.output


@pytest.mark.parametrize(
    ("base", "out", "expected"),
    [
        ("zz", "x.png", "there is no run 'zz'"),
        ("aa", "x.png", "the start of 2 runs (aa0000000000, aa0000000001)"),
        ("aa0000000000", "x.gif", "end the name in one of .png"),
    ],
)
def test_curves_that_cannot_be_drawn_are_a_sentence(tcm_bench, outputs, base, out, expected):
    assert expected in sentence(tcm_bench("curves", base, "ab", "--out", str(outputs / out)))
    assert not (outputs / out).exists()


@pytest.fixture
def on_a_circle(outputs):
    """The runs of the sweep, with embeddings of two dimensions."""
    for folder in (outputs / "runs").iterdir():
        x = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))
        save_file({"embeddings": x, "labels": LABELS, "indices": torch.arange(32)}, folder / ledger.EMBEDDINGS)
    return outputs


def test_circle_draws_two_runs(tcm_bench, on_a_circle):
    out = on_a_circle / "pictures" / "circle.png"
    done = tcm_bench("circle", "aa0000000000", "ab", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert out.stat().st_size > 5_000
    assert str(out) in done.output


def test_circle_of_more_dimensions_is_a_sentence(tcm_bench, outputs):
    out = outputs / "circle.png"
    line = sentence(tcm_bench("circle", "aa0000000000", "ab", "--out", str(out)))
    assert "its embeddings have 8 dimensions, and a circle shows 2" in line
    assert not out.exists()


def test_pareto_draws_a_sweep_and_says_what_it_shows(tcm_bench, outputs):
    out = outputs / "pictures" / "pareto.png"
    done = tcm_bench("pareto", "mini", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert out.stat().st_size > 5_000
    claim, tcm, written = done.output.splitlines()
    assert claim.startswith("emoji, resnet50: of 1 baselines the highest R@1 has 50.0 % and 30.0e-3 (smooth_ap)")
    assert tcm.startswith("TCM paper: of 1 0 have more R@1, 1 less OPIS")
    assert written == f"written: {out}"


@pytest.mark.parametrize(
    ("sweep", "out", "expected"),
    [("mni", "x.png", "no sweep 'mni'"), ("mini", "x.gif", "end the name in one of .png")],
)
def test_pareto_that_cannot_be_drawn_is_a_sentence(tcm_bench, outputs, sweep, out, expected):
    assert expected in sentence(tcm_bench("pareto", sweep, "--out", str(outputs / out)))
    assert not (outputs / out).exists()


def test_a_damaged_row_is_a_sentence(tcm_bench, outputs):
    (outputs / "runs" / "aa0000000000" / ledger.RESULT).write_text("{}")
    assert "is not a result of tcm_bench" in sentence(tcm_bench("report", "mini"))


def test_a_fault_of_ours_keeps_its_traceback(tcm_bench, monkeypatch):
    def broken(*_):
        raise RuntimeError("ours")

    monkeypatch.setattr(ledger, "read_sweep", broken)
    assert isinstance(tcm_bench("report", "mini").exception, RuntimeError)


def test_the_installed_command_answers_without_the_heavy_libraries(outputs):
    code = (
        "import sys; from tcm_bench.cli.app import app\n"
        "try: app()\n"
        "finally: print({'torch', 'pandas', 'matplotlib', 'lightning'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "status", "--output-dir", str(outputs)],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONWARNINGS": "error"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "4 runs: 1 absent, 3 finished" in done.stdout
    assert done.stderr == "set()\n"


def test_a_mistyped_command_line_is_refused_with_status_2():
    script = Path(sys.executable).with_name("tcm-bench")
    done = subprocess.run([script, "reprt"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "No such command 'reprt'" in done.stderr
    assert "Traceback" not in done.stderr
