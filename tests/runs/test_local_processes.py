"""Hydra's launcher for this machine, with jobs that do nothing, and the GPUs that it gives out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tcm_bench.gpus import Gpu, gpus
from tcm_bench.runs.build import ConfigurationError
from tcm_bench.runs.sweep import Planned, gpus_for

APP = Path(__file__).parents[1] / "no_op_app.py"
DRIVER = """#!/bin/sh
echo "0, GPU-aaa, 23000"
echo "1, GPU-bbb, 79000"
"""


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """What the driver says where there are two; none is at hand."""
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    driver.write_text(DRIVER)
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{driver.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_gpus_are_those_that_may_be_used(two_gpus, monkeypatch):
    first, second = Gpu("GPU-aaa", 23000 / 1024), Gpu("GPU-bbb", 79000 / 1024)
    assert gpus() == [first, second]
    for visible, expected in {"1": [second], "GPU-bbb,0": [second, first], "": [], "7": []}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpus() == expected
    monkeypatch.setenv("PATH", "/nowhere")
    assert gpus() == []


def test_a_gpu_with_too_little_memory_is_left_out_and_none_is_told(two_gpus):
    assert gpus_for("auto", [Planned("a", "a", memory_gb=10), Planned("b", "b", memory_gb=20)]) == [
        "GPU-aaa",
        "GPU-bbb",
    ]
    assert gpus_for("gpu", [Planned("a", "a", memory_gb=10), Planned("b", "b", memory_gb=30)]) == ["GPU-bbb"]
    assert gpus_for("cpu", [Planned("a", "a", memory_gb=1000)]) == []
    with pytest.raises(ConfigurationError, match=r"needs about 200 GB of a GPU .* at most 77\.1 GB are free"):
        gpus_for("gpu", [Planned("a", "a", memory_gb=200)])


def test_each_process_has_a_gpu_and_cores_of_its_own_and_a_failure_gets_a_new_one(tmp_path, two_gpus):
    out = tmp_path / "out"
    out.mkdir()
    words = [sys.executable, str(APP), str(out), "local", "i=range(0,8)", "fail=1", "die=2"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    told = {int(path.stem): json.loads(path.read_text()) for path in out.glob("*.json")}
    assert sorted(told) == list(range(8)), ran.stderr
    assert {one["gpu"] for one in told.values()} == {"GPU-aaa", "GPU-bbb"}
    places = {(one["gpu"], *one["cores"]) for one in told.values()}
    assert len(places) == 2  # whoever has a GPU has its cores
    first, second = ({*place[1:]} for place in places)
    cores = os.sched_getaffinity(0)
    assert first | second <= cores
    assert len(cores) == 1 or not first & second
    for ended in (1, 2):  # with it ended its process
        after = [one["pid"] for one in told.values() if str(ended) in one["before"]]
        assert after
        assert told[ended]["pid"] not in after
