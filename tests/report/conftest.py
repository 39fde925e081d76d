"""Rows of runs as `tcm_bench.results.ledger` writes them."""

import pytest

from tcm_bench.results.ledger import Result, read_result, science_hash, write_result

SETTINGS = {
    "axis": "distance",
    "far_bounds": [0.01, 0.1],
    "num_thresholds": 101,
    "c": 1.0,
    "eps": 0.1,
    "ranking": "mean",
}


@pytest.fixture
def run(tmp_path):
    """Makes a row, through the disk: `run("none", seed=1, opis=0.03, data="emoji")`."""

    def make(
        tcm, seed=0, data="emoji", backbone="resnet50", loss="smooth_ap", *, threshold=(), choices=(), row=(), **metrics
    ):
        names = {"data": data, "backbone": backbone, "loss": loss}
        chosen = {**names, "tcm": tcm, "seed": seed, **dict(choices)}
        values = {
            "status": "finished",
            "run_id": science_hash(chosen),
            "comparison_id": science_hash(names),
            "choices": chosen,
            "metrics": {"recall_at_1": 0.5, "opis": 0.03, "opis_10pct": 0.1, "recall_at_1_before": 0.4} | metrics,
            "threshold": {**SETTINGS, "threshold_low": 0.9, "threshold_high": 1.1, **dict(threshold)},
            "data_hash": data,
            "started": "2026-01-01T00:00:00+00:00",
            "wall_s": 1.0,
            "peak_mem_gib": 0.1,
            "threads": 1,
            "versions": {},
            "git": {"sha": "0123456789abcdef", "dirty": False},
        }
        result = Result(**{**values, **dict(row)})
        folder = tmp_path / "runs" / result.run_id
        write_result(folder, result)
        return read_result(folder)

    return make
