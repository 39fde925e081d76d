"""What watches a run from outside (W&B): told what the run is when it starts, and the row when it has ended.

Names are those of the row: what identifies a run goes into a logger's configuration, what it came to into its summary.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from tcm_bench.results.labels import FACTORS, is_base
from tcm_bench.results.ledger import Result, Run
from tcm_bench.runs import provenance
from tcm_bench.runs.build import build
from tcm_bench.runs.naming import DEBUG

OUTCOME = {"status", "reason", "selection", "counts", "threshold", "started", "wall_s", "peak_mem_gib", "threads"}
EXIT_CODES = {"finished": 0, "debug": 0, "failed": 1, "interrupted": 255}  # W&B's own for Ctrl-C


def start_loggers(cfg: DictConfig, run: Run) -> list[Logger]:
    """The loggers of a configuration, each of which knows what run it watches.

    Args:
        cfg: A composed configuration.
        run: What it describes.
    """
    job_type = DEBUG if DEBUG in cfg else "base" if is_base(run) else "tcm"
    names = [str(run.choices[name]) for name in FACTORS]
    tags = [*names, str(run.choices["tcm"]), f"seed={run.choices['seed']}"]
    loggers = [
        build(node, list(cfg.trusted_packages), group="_".join(names), job_type=job_type, tags=[*node.tags, *tags])
        for node in cfg.logger.values()
    ]
    describe(
        loggers,
        **run.choices,
        run_id=run.run_id,
        comparison_id=run.comparison_id,
        sweep_name=cfg.sweep_name,
        science=_same_everywhere(run.science, cast(Any, OmegaConf.to_container(cfg, resolve=True))),
        versions=provenance.versions(),
        git=provenance.git_state(),
    )
    return loggers


def describe(loggers: Iterable[Logger], **known: Any) -> None:
    """Add to what identifies the run: called again when more is known, such as the hash of the data."""
    for logger in loggers:
        logger.log_hyperparams(known)


def conclude(loggers: Iterable[Logger], result: Result) -> None:
    """Give the row to every logger that wants to know how the run ended; nothing can be logged after that."""
    summary = {**result.metrics, **result.model_dump(include=OUTCOME)}
    for logger in loggers:
        if end := getattr(logger, "conclude", None):
            end(summary, EXIT_CODES[result.status])


def _same_everywhere(masked: Mapping[str, Any], real: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what a mask stands for: places and settings of one machine."""
    return {
        key: _same_everywhere(value, real[key]) if isinstance(value, Mapping) else value
        for key, value in masked.items()
        if isinstance(value, Mapping) or value == real.get(key, value)  # `_source_` stands in the first alone
    }
