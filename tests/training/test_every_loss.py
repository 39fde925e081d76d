"""Three processes that share a batch take the step of one that has it whole, with every loss, without and with TCM."""

import json
import subprocess
import sys
from pathlib import Path


def test_three_processes_are_one_for_every_loss():
    script = str(Path(__file__).parents[1] / "every_loss.py")
    words = [sys.executable, script, "--worlds", "3", "--chunks", "0", "--json"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert len({loss for _, (loss, _, _), _ in found}) >= 12
    assert not [case for _, case, difference in found if difference > 1e-3]
