import runpy
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = str(Path(__file__).with_name("three_ranks.py"))


def test_any_number_of_processes_finds_the_same_bits(tmp_path):
    script, meeting = runpy.run_path(SCRIPT), str(tmp_path / "meet")
    files = [tmp_path / f"{rank}.pt" for rank in (1, 2)]
    others = [
        subprocess.Popen([sys.executable, SCRIPT, str(rank), meeting, str(file)])
        for rank, file in zip((1, 2), files, strict=True)
    ]
    try:
        found = [script["main"](0, meeting)]
        assert [other.wait(timeout=60) for other in others] == [0, 0]
    finally:
        for other in others:
            other.kill()
    found += [torch.load(file, weights_only=True) for file in files]
    alone = script["evaluations"](None)
    assert [sorted(each) for each in found] == [["three", "two"], ["three", "two"], ["three"]]
    for each in found:
        for size, cases in each.items():
            for name, tensors in cases.items():
                pairs = zip(tensors, alone[name], strict=True)
                same = [a.nan_to_num(-1).equal(b.nan_to_num(-1)) for a, b in pairs]
                assert all(same), f"{name}, {size} processes: {same}"
