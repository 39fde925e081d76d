"""Real runs of a head on small vectors."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from vectors import SMALL, head, write_vectors

from tcm_bench.runs.naming import PROJECT_ROOT, choices
from tcm_bench.runs.run import execute


@pytest.fixture(scope="session")
def vectors(tmp_path_factory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("vectors"))


@pytest.fixture(scope="session")
def run(vectors):
    """Runs a configuration in this process; returns its row and its folder."""

    def once(output: Path, *overrides: str):
        words = [*SMALL, *head(vectors), f"paths.output_dir={output}", *overrides]
        with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
            cfg, hydra = compose("config", words), compose("config", words, return_hydra_config=True).hydra
        return execute(cfg, choices(hydra, cfg.seed)), Path(cfg.run_dir)

    return once
