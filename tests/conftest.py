"""Shared by all tests: one thread a process, and a torch whose torchvision can be imported."""

import os
import signal
from pathlib import Path

import pytest
import torch

import tcm_bench  # noqa: F401 - a test that imports timm first could not be run alone

os.environ["WANDB_MODE"] = "offline"  # no test may reach out, whatever key the machine has
torch.set_num_threads(1)  # two processes of two threads each are many times slower than one
torch.set_flush_denormal(True)
# A shell that starts the tests in the background has them ignore Ctrl-C, and so would the runs that they stop by it.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT
