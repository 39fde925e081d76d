"""Real runs of a head on small vectors."""

from pathlib import Path

import pytest
from composition import composition
from vectors import SMALL, head, write_vectors

from tcm_bench.runs.run import execute


@pytest.fixture(scope="session")
def vectors(tmp_path_factory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("vectors"))


@pytest.fixture(scope="session")
def run(vectors):
    """Runs a configuration in this process; returns its row and its folder."""

    def once(output: Path, *overrides: str):
        words = [*SMALL, *head(vectors), f"paths.output_dir={output}", *overrides]
        cfg, chosen = composition(*words)
        return execute(cfg, chosen), Path(cfg.run_dir)

    return once
