"""Ctrl-C at the first moments, while a command is still importing: one line, status 130, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tcm_bench.runs.naming import PROJECT_ROOT

# Sends Ctrl-C to its process group when a module is about to be imported, by any process or by a sweep's worker.
IMPATIENT = """
import os, signal, sys

class Impatient:
    def find_spec(self, name, path=None, target=None):
        who, _, module = os.environ["STOP_AT"].rpartition(":")
        if name == module and who in " ".join(sys.orig_argv):
            os.killpg(0, signal.SIGINT)

sys.meta_path.insert(0, Impatient())
"""


@pytest.fixture
def stopped_at(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(IMPATIENT)

    def run(module: str, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "STOP_AT": module}
        return subprocess.run(
            [sys.executable, *words],
            capture_output=True,
            text=True,
            env=environment,
            start_new_session=True,
            check=False,
        )

    return run


TRAIN = str(PROJECT_ROOT / "train.py")
TCM_BENCH = str(Path(sys.executable).with_name("tcm-bench"))


@pytest.mark.parametrize(
    ("module", "words", "line"),
    [
        ("hydra", [TRAIN], "interrupted; the same command goes on from here"),
        ("torch", [TRAIN, "paths.output_dir={out}"], "interrupted; the same command goes on from here"),
        ("typer", [TCM_BENCH, "status"], "interrupted"),
        ("pandas", [TCM_BENCH, "report", "x", "--output-dir", "{out}"], "interrupted"),
    ],
    ids=["train-importing", "train-checking", "tcm-bench-importing", "tcm-bench-at-work"],
)
def test_ctrl_c_while_importing_is_one_line_and_status_130(stopped_at, tmp_path, module, words, line):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "x.json").write_text('{"name": "x", "runs": []}')
    ran = stopped_at(module, *(word.format(out=tmp_path) for word in words))
    assert (ran.returncode, ran.stderr) == (130, f"\n{line}\n")


@pytest.mark.parametrize("module", ["joblib", "tcm_bench.runs.experiment"], ids=["starting", "importing"])
def test_ctrl_c_while_the_processes_of_a_sweep_start_is_one_line(stopped_at, tmp_path, module):
    words = ["seed=0,1", "hydra/launcher=joblib", "machine.jobs=2", f"paths.output_dir={tmp_path}", "-m"]
    ran = stopped_at(f"popen_loky_posix:{module}", TRAIN, *words)
    said = [line for line in ran.stderr.splitlines() if line and not line.startswith("0 of 2 runs finished")]
    assert (ran.returncode, said) == (130, ["interrupted; the same command goes on from here"])
