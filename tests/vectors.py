"""Small vectors that a head trains on in a second, and the command line around them."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tcm_bench.runs.naming import PROJECT_ROOT

SMALL = ["trainer.max_epochs=2", "data.loader.batches_per_epoch=5", "machine.progress=false", "machine.accelerator=cpu"]
HEAD = ["data.loader.classes_per_batch=8", "model.head.embedding_dim=16", "machine.threads=1"]


def write_vectors(folder: Path) -> Path:
    """Twenty-four classes of unequal spread, ten vectors each."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(24, 32))
    spread = rng.uniform(0.3, 1.5, size=24)
    labels = np.repeat(np.arange(24), 10)
    features = centers[labels] + spread[labels, None] * rng.normal(size=(240, 32))
    np.savez(folder / "mine.npz", features=features.astype(np.float32), labels=labels)
    return folder / "mine.npz"


def head(vectors: Path) -> list[str]:
    """Overrides that train a small head on a file of vectors."""
    return ["data=features", f"data.file={vectors}", *HEAD]


def command(output: Path, *overrides: str) -> list[str]:
    """The real command of a small run or sweep."""
    words = [sys.executable, str(PROJECT_ROOT / "train.py"), *SMALL, f"paths.output_dir={output}"]
    return [*words, *overrides]


def wait_for(condition: Callable[[], object], process: subprocess.Popen, limit_s: float = 120.0) -> None:
    """Until a condition holds, while a process that has to be alive then works toward it."""
    until = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, "it ended before it could be stopped"
        if time.monotonic() > until:
            process.kill()  # else a test that fails would wait for it
            raise AssertionError(f"not within {limit_s:.0f} s")
        time.sleep(0.02)
