"""The ledger: names, atomic rows, states."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tcm_bench.results import ledger


def row(**changes):
    values = {
        "status": "finished",
        "run_id": "0" * 12,
        "comparison_id": "1" * 12,
        "choices": {"data": "emoji", "backbone": "r", "loss": "l", "tcm": "none", "seed": 0},
        "metrics": {"recall_at_1": 0.5, "opis": None},
        "started": "2026-01-01T00:00:00+00:00",
        "wall_s": 1.0,
        "peak_mem_gib": 0.1,
        "threads": 1,
        "versions": {"torch": "2"},
        "git": {"sha": None, "dirty": None},
    }
    return ledger.Result(**{**values, **changes})


def test_a_name_depends_on_every_value_and_on_nothing_else():
    name = ledger.science_hash({"a": {"x": 1, "y": [1, 2]}, "seed": 0})
    assert name == ledger.science_hash({"seed": 0, "a": {"y": [1, 2], "x": 1}})
    others = [{"a": {"x": 1, "y": [2, 1]}, "seed": 0}, {"a": {"x": 1, "y": [1, 2]}, "seed": 1}]
    assert name not in map(ledger.science_hash, others)
    assert len(name) == 12


def test_a_row_survives_the_disk(tmp_path):
    ledger.write_result(tmp_path, row())
    assert ledger.read_result(tmp_path) == row()
    assert ledger.state(tmp_path) == "finished"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["result.json"]


def test_a_row_that_is_not_ours_is_refused_with_its_path(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({"status": "done"}))
    with pytest.raises(ValueError, match=r"result\.json is not a result of tcm_bench \(run_id"):
        ledger.read_result(tmp_path)


def test_a_failed_write_leaves_the_old_content_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    ledger.write_atomic(path, "old")

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        ledger.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_run_is_stale_and_a_living_one_running(tmp_path):
    assert ledger.state(tmp_path) == "absent"
    code = "import sys, time; from pathlib import Path; from tcm_bench.results import ledger; "
    code += "ledger.write_progress(Path(sys.argv[1]), 'train', 1, 2); print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"up\n"
        assert ledger.state(tmp_path) == "running"
        progress = ledger.read_progress(tmp_path)
        assert progress is not None
        assert (progress.stage, progress.done, progress.total) == ("train", 1, 2)
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert ledger.state(tmp_path) == "stale"


def test_a_run_killed_right_after_its_row_was_written_is_finished(tmp_path):
    ledger.write_progress(tmp_path, "test")
    dead = ledger.read_progress(tmp_path).model_copy(update={"pid": 2**22 + 1})
    ledger.write_result(tmp_path, row(status="finished"))
    ledger.write_atomic(tmp_path / ledger.RUNNING, dead.model_dump_json())
    assert ledger.state(tmp_path) == "finished"
    ledger.remove_unfinished(tmp_path)
    assert not (tmp_path / ledger.RUNNING).exists()


def test_a_run_on_another_machine_is_judged_by_its_signs_of_life(tmp_path, monkeypatch):
    ledger.write_progress(tmp_path, "train")
    running = tmp_path / ledger.RUNNING
    elsewhere = ledger.read_progress(tmp_path).model_copy(update={"host": "elsewhere", "pid": 2**22 + 1})
    ledger.write_atomic(running, elsewhere.model_dump_json())
    assert ledger.state(tmp_path) == "running"
    silent = time.time() - ledger.STALE_S - 1
    os.utime(running, (silent, silent))
    assert ledger.state(tmp_path) == "stale"
    monkeypatch.setattr(ledger, "BEAT_S", 0.01)
    with ledger.heartbeat(tmp_path):
        while ledger.state(tmp_path) == "stale":
            time.sleep(0.01)
    assert ledger.state(tmp_path) == "running"
    running.unlink()
    with ledger.heartbeat(tmp_path):  # after the end
        time.sleep(0.05)
    assert not running.exists()


def test_time_left_is_of_the_stage_and_of_what_this_process_has_done(tmp_path):
    ledger.write_progress(tmp_path, "train", 100, 400)  # resumed
    assert ledger.read_progress(tmp_path).seconds_left is None
    begun = ledger.read_progress(tmp_path)
    ledger.write_atomic(
        tmp_path / ledger.RUNNING, begun.model_copy(update={"stage_started": time.time() - 30}).model_dump_json()
    )
    ledger.write_progress(tmp_path, "train", 200, 400)
    assert ledger.read_progress(tmp_path).seconds_left == pytest.approx(60, rel=0.1)
    ledger.write_progress(tmp_path, "test")
    assert ledger.read_progress(tmp_path).seconds_left is None


def test_progress_keeps_the_start_of_its_own_process_and_forgets_that_of_another(tmp_path):
    ledger.write_progress(tmp_path, "features")
    first = ledger.read_progress(tmp_path)
    time.sleep(0.01)
    ledger.write_progress(tmp_path, "train")
    assert ledger.read_progress(tmp_path).started == first.started
    dead = first.model_copy(update={"pid": 2**22 + 1, "started": 0.0})
    ledger.write_atomic(tmp_path / ledger.RUNNING, dead.model_dump_json())
    ledger.write_progress(tmp_path, "train")
    assert ledger.read_progress(tmp_path).started > first.started


def test_a_row_of_an_earlier_version_is_read_by_todays_names(tmp_path):
    old = {
        "run_id": "0" * 12, "choices": {}, "schema_version": 2, "status": "finished", "started": "", "wall_s": 1.0,
        "peak_mem_gib": 1.0, "threads": 1, "versions": {}, "git": {},
        "metrics": {"opis": 0.01, "tpr_at_far_1pct": 0.5}, "threshold": {"steps": 101, "d_min": 0.9, "d_max": None},
    }  # fmt: skip
    (tmp_path / ledger.RESULT).write_text(json.dumps(old))
    row = ledger.read_result(tmp_path)
    assert row.metrics == {"opis": 0.01, "tar_at_far_1pct": 0.5}
    assert row.threshold == {"num_thresholds": 101, "threshold_low": 0.9, "threshold_high": None}
    assert row.intervals == {}
