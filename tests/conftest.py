"""Shared by all tests: one thread a process, and a torch whose torchvision can be imported."""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

import tcm_bench  # noqa: F401  mends torchvision for a test file that imports torchmetrics first

os.environ["WANDB_MODE"] = "offline"  # no test may reach out, whatever key the machine has
os.environ["WANDB_DATA_DIR"] = tempfile.mkdtemp()  # else copies of tables gather in the home folder
atexit.register(shutil.rmtree, os.environ["WANDB_DATA_DIR"], ignore_errors=True)
torch.set_num_threads(1)  # two processes of two threads each are many times slower than one
torch.set_flush_denormal(True)
# A shell that starts the tests in the background has them ignore Ctrl-C, and so would the runs that they stop by it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time, and no clock: a loaded machine may take long over them.
settings.register_profile(
    "anywhere", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("anywhere")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT
