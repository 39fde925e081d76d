"""What watches a run from outside (W&B): told what the run is when it starts, shown what it did, and given its row.

Names are those of the row: what identifies a run goes into a logger's configuration, what it came to into its summary.
"""

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from tcm_bench.data.table import ImageTable
from tcm_bench.process import is_first_process
from tcm_bench.results.labels import FACTORS, is_base
from tcm_bench.results.ledger import ENDED_WELL, Result, Run, flat
from tcm_bench.runs import provenance
from tcm_bench.runs.build import build
from tcm_bench.runs.naming import DEBUG

OUTCOME = {
    *("status", "reason", "selection", "counts", "threshold", "started"),
    *("wall_s", "step_s", "peak_mem_gib", "threads"),
}
SHOWN = 12  # classes, and queries, of a logger that does not say how many
EXIT_CODES = {"finished": 0, "debug": 0, "failed": 1, "interrupted": 255}  # W&B's own for Ctrl-C

log = logging.getLogger(__name__)


def start_loggers(cfg: DictConfig, run: Run) -> list[Logger]:
    """The loggers of a configuration, each of which knows what run it watches.

    Args:
        cfg: A composed configuration.
        run: What it describes.
    """
    job_type = DEBUG if DEBUG in cfg else "base" if is_base(run) else "tcm"
    names = [str(run.choices[name]) for name in FACTORS]
    tags = [*names, str(run.choices["tcm"]), f"seed={run.choices['seed']}"]
    loggers = []
    for node in cfg.logger.values():
        sorted_by = {"group": "_".join(names), "job_type": job_type, "tags": [*node.get("tags", []), *tags]}
        loggers.append(build(node, list(cfg.trusted_packages), **(sorted_by if "tags" in node else {})))
        if keep_config := getattr(loggers[-1], "keep_config", None):
            keep_config(OmegaConf.to_yaml(cfg))  # not resolved: places as they were given, not as they are here
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Experiment logs directory")  # a run that goes on tells CSV all again
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


def show(loggers: Iterable[Logger], run_dir: Path, class_names: Sequence[str], images: ImageTable | None) -> None:
    """Give curves and neighbors to every logger that takes pictures; whatever goes wrong with that is a warning.

    Args:
        loggers: How much they take is what they say, or a little.
        run_dir: Holds what was measured on the test classes.
        class_names: Of the test classes.
        images: The test set, if it consists of images.
    """
    if not is_first_process():
        return
    for logger in loggers:
        try:
            _show(logger, run_dir, class_names, images)
        except Exception as error:  # noqa: BLE001 - a run is worth more than the look of it
            log.warning("%s was not shown all there is to see (%s)", type(logger).__name__, error)


def _show(logger: Logger, run_dir: Path, class_names: Sequence[str], images: ImageTable | None) -> None:
    to_tensorboard = partial(_to_tensorboard, logger) if isinstance(logger, TensorBoardLogger) else None
    log_image, log_table = getattr(logger, "log_image", to_tensorboard), getattr(logger, "log_table", None)
    classes, queries = (getattr(logger, name, SHOWN) for name in ("classes_shown", "queries_shown"))
    if log_image is None or not (classes or queries):
        return
    from tcm_bench.runs import shown  # matplotlib: half a second that a run without need not pay

    if images and queries:
        found = shown.panels(run_dir, images, queries)
        log_image(key="retrieval", images=[one.pixels for one in found], caption=[one.caption for one in found])
    if classes and log_table:
        columns, rows = shown.curves_table(run_dir, class_names, classes)
        log_table(key="utility_table", columns=columns, data=rows)
    if classes:
        log_image(key="utility", images=[shown.curves_picture(run_dir, classes)])


def _to_tensorboard(logger: TensorBoardLogger, key: str, images: Sequence[np.ndarray], caption: object = "") -> None:
    """Pictures of one size under one key; it has no words beside them."""
    logger.experiment.add_images(key, np.stack(images), dataformats="NHWC")


def conclude(loggers: Iterable[Logger], result: Result) -> None:
    """Give every logger the row of the run that has ended; nothing can be logged after that.

    Of Lightning's own, which know no summary, CSV has the numbers in its last line, TensorBoard in its table of runs.
    """
    summary = {**result.metrics, **result.model_dump(include=OUTCOME)}
    for logger in loggers:
        if end := getattr(logger, "conclude", None):
            end(summary, EXIT_CODES[result.status])
            continue
        plain = flat(summary)
        numbers = {name: value for name, value in plain.items() if isinstance(value, int | float)}
        words = {name: value for name, value in plain.items() if name not in numbers}
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams({**logger.hparams, **words}, metrics=numbers)
        else:
            logger.log_hyperparams(words)
            logger.log_metrics(numbers)
        logger.finalize("success" if result.status in ENDED_WELL else result.status)


def _same_everywhere(masked: Mapping[str, Any], real: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what a mask stands for: places and settings of one machine."""
    return {
        key: _same_everywhere(value, real[key]) if isinstance(value, Mapping) else value
        for key, value in masked.items()
        if isinstance(value, Mapping) or value == real.get(key, value)  # `_source_` stands in the first alone
    }
