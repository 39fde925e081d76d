"""`tcm-bench runs`: list, show, compare, reproduce, prune and export, over folders in every state of damage."""

import csv
import json
import os
import shlex
import subprocess
import sys
import time

import pandas as pd
import pytest
from command_line import numbers, sentence, tcm_bench

from tcm_bench.results import ledger

CHOICES = {"data": "emoji", "backbone": "resnet50", "loss": "smooth_ap", "tcm": "none", "seed": 0}
ROW = {
    "comparison_id": "c" * 12,
    "science": {"tcm": {"negative_margin": 0.5}, "data": {"k": [1, 2]}},
    "words": ["data=emoji", "loss.name='a b'", "+sweep=mini"],
    "metrics": {"recall_at_1": 0.5, "opis": 0.03, "opis_10pct": None},
    "data_hash": "d" * 64,
    "wall_s": 2.0,
    "peak_mem_gib": 0.1,
    "threads": 1,
    "versions": {"torch": "0.0"},
    "git": {"sha": "0" * 40, "dirty": False},
}


def written(output, number, **changes):
    started = f"2026-01-01T00:00:{number:02d}+00:00"
    known = {
        "run_id": f"{number:012x}",
        "choices": {**CHOICES, "seed": number},
        "status": "finished",
        "started": started,
    }
    row = ledger.Result(**{**ROW, **known, **changes})
    ledger.write_result(output / "runs" / row.run_id, row)
    return row


@pytest.fixture
def outputs(tmp_path):
    """Runs of every kind, and folders of every kind of damage."""
    for number, status in enumerate(("finished", "failed", "interrupted", "finished")):
        written(tmp_path, number, status=status)
    runs = tmp_path / "runs"
    old = json.loads((runs / f"{3:012x}" / ledger.RESULT).read_text())
    del old["words"], old["science"]
    (runs / f"{3:012x}" / ledger.RESULT).write_text(json.dumps({**old, "schema_version": 1}))
    (runs / "half").mkdir()
    (runs / "half" / ledger.RESULT).write_text('{"run_id": "half", "stat')
    (runs / "empty").mkdir()
    (runs / "foreign").mkdir()
    (runs / "foreign" / ledger.RESULT).write_text('{"accuracy": 1.0}')
    (runs / "no folder").write_text("")
    ledger.write_progress(runs / "killed", "train", 3, 9)
    said = json.loads((runs / "killed" / ledger.RUNNING).read_text())
    (runs / "killed" / ledger.RUNNING).write_text(json.dumps({**said, "host": "elsewhere"}))
    silent = time.time() - 2 * ledger.STALE_S
    os.utime(runs / "killed" / ledger.RUNNING, (silent, silent))
    return tmp_path


def test_list_names_what_is_there_and_what_is_damaged(outputs):
    listed = tcm_bench("runs", "list", "--output-dir", outputs).stdout.splitlines()
    assert [line.split()[1] for line in listed[1:5]] == ["finished", "interrupted", "failed", "finished"]  # new first
    told = "000000000000 finished emoji resnet50 smooth_ap none 0 50.0 30.0 – 2026-01-01T00:00"
    assert listed[4].split() == told.split()
    assert "half/result.json is not a result of tcm_bench" in "".join(listed[5:])
    assert "foreign/result.json is not a result of tcm_bench" in "".join(listed[5:])
    assert listed[-1] == "4 runs"
    assert len(numbers("runs", "list", "--output-dir", outputs)) == 4


def test_status_of_such_a_folder_tells_every_state(outputs):
    found = {one["run_id"]: one for one in numbers("status", "--output-dir", outputs)["runs"]}
    assert {name: one["state"] for name, one in found.items()} == {
        f"{0:012x}": "finished", f"{1:012x}": "failed", f"{2:012x}": "interrupted", f"{3:012x}": "finished",
        "half": "unreadable", "foreign": "unreadable", "empty": "absent", "killed": "stale",
    }  # fmt: skip
    assert found["killed"]["reason"].endswith("on elsewhere ended without a word in train")


def test_show_and_compare_tell_all_and_what_differs(outputs):
    shown = tcm_bench("runs", "show", f"{0:012x}", "--output-dir", outputs).stdout
    assert ["metrics.recall_at_1", "0.5"] in [line.split() for line in shown.splitlines()]
    assert numbers("runs", "show", f"{0:012x}", "--output-dir", outputs)["metrics"]["opis"] == 0.03
    differing = numbers("runs", "compare", f"{0:012x}", f"{1:012x}", "--output-dir", outputs)
    assert differing == {"choices.seed": [0, 1]}
    same = tcm_bench("runs", "compare", f"{0:012x}", f"{0:012x}", "--output-dir", outputs).stdout
    assert same == "they differ in nothing\n"
    assert "has not ended" in sentence("runs", "show", "killed", "--output-dir", outputs)


def test_reproduce_gives_the_command_and_warns_of_another_installation(outputs):
    done = tcm_bench("runs", "reproduce", f"{0:012x}", "--output-dir", outputs)
    checkout, command, *rest = done.stdout.splitlines()
    assert checkout == f"git checkout {'0' * 40}"
    assert shlex.split(command) == ["python", "train.py", *ROW["words"], "hydra.mode=RUN"]
    assert f"# data {'d' * 64}" in rest
    assert "warning: torch is" in done.stderr
    assert "warning: the code here is" in done.stderr
    assert "older than the note of its command" in sentence("runs", "reproduce", f"{3:012x}", "--output-dir", outputs)


def test_prune_says_first_and_then_removes_what_came_to_nothing(outputs):
    runs = outputs / "runs"
    failed, interrupted, resumable = (runs / f"{number:012x}" for number in (1, 2, 4))
    written(outputs, 4, status="interrupted")
    (resumable / ledger.CHECKPOINT).touch()
    before = {path.name for path in runs.iterdir()}
    said = tcm_bench("runs", "prune", "--output-dir", outputs).stdout
    assert "3 runs" in said
    assert "would be removed" in said
    assert f"{resumable.name}: interrupted, stays for its checkpoint" in said
    assert {path.name for path in runs.iterdir()} == before
    holder = "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
    holder += "print(flush=True); input()"
    words = [sys.executable, "-c", holder, str(failed / ".lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        done = tcm_bench("runs", "prune", "--delete", "--output-dir", outputs).stdout
        other.communicate(b"\n")
    assert f"{failed.name}: a process is at it, so it stays" in done
    assert "2 runs" in done
    left = {path.name for path in runs.iterdir()}
    assert before - left == {interrupted.name, "killed"}
    tcm_bench("runs", "prune", "--state", "unreadable", "--delete", "--output-dir", outputs)
    assert left - {path.name for path in runs.iterdir()} == {"half", "foreign"}
    tcm_bench("runs", "prune", "--checkpoints", "--delete", "--output-dir", outputs)
    assert not resumable.exists()
    assert "there is no state 'broken'" in sentence("runs", "prune", "--state", "broken", "--output-dir", outputs)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_export_has_everything_in_one_table(outputs, tmp_path, suffix):
    out = tmp_path / f"all.{suffix}"
    assert "4 runs" in tcm_bench("runs", "export", out, "--output-dir", outputs).stdout
    table = pd.read_csv(out) if suffix == "csv" else pd.read_parquet(out)
    assert table["choices.seed"].tolist() == [0, 1, 2, 3]
    assert table["metrics.opis"].tolist() == [0.03] * 4
    assert table["science.tcm.negative_margin"].isna().tolist() == [False, False, False, True]
    assert json.loads(table["science.data.k"][0]) == [1, 2]
    assert table["command"][0].startswith("python train.py data=emoji")
    if suffix == "csv":
        assert len(list(csv.reader(out.read_text().splitlines()))) == 5
    assert "end the name in .csv or .parquet" in sentence("runs", "export", tmp_path / "x.xls", "--output-dir", outputs)


def test_many_writers_of_one_row_leave_a_whole_one(tmp_path):
    """On one folder, as when a file server's locks fail: whoever is last has written it whole."""
    code = (
        "import sys; from pathlib import Path; from tcm_bench.results import ledger; "
        "row = ledger.Result.model_validate_json(sys.stdin.read()); "
        "[ledger.write_result(Path(sys.argv[1]), row) for _ in range(150)]"
    )
    rows = [written(tmp_path, 0, reason=str(number) * 5000) for number in range(3)]
    folder = tmp_path / "runs" / f"{0:012x}"
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, text=True) for _ in rows
    ]
    for writer, row in zip(writers, rows, strict=True):
        writer.stdin.write(row.model_dump_json())
        writer.stdin.close()
    while any(writer.poll() is None for writer in writers):
        assert ledger.read_result(folder) in rows
    assert [writer.wait() for writer in writers] == [0] * 3
    assert [path.name for path in folder.iterdir()] == [ledger.RESULT]
