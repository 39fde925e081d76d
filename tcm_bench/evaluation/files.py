"""An evaluation on disk: its numbers in `evaluation.json`, what each class contributed in two parquet files.

`classes.parquet` has one row a class, by increasing label: `label`, `images`, `queries`, `hits_at_<k>`, `positives` and
`negatives` (pairs), `mean_utility` (over the calibration range), `threshold_tar_90pct` and `threshold_far_1pct` (where
this class has these rates; null if not known). `curves.parquet` has one row a class and threshold:
`label`, `threshold`, `accepted_positives`, `accepted_negatives`, `sensitivity`, `specificity`, `utility`; no row at all
if there is no pair of two classes. What is undefined is null in all three, and `reason` in the first says why.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from tcm_bench.evaluation.bootstrap import (
    CONFIDENCE,
    RESAMPLES,
    Estimate,
    PerClass,
    class_bootstrap,
    class_difference,
)
from tcm_bench.evaluation.evaluate import Evaluation, score_name
from tcm_bench.evaluation.settings import Settings
from tcm_bench.evaluation.threshold import axis_places
from tcm_bench.files import replacing, write_atomic
from tcm_bench.results.ledger import EVALUATION as SUMMARY
from tcm_bench.results.old_names import renamed

CLASSES, CURVES = "classes.parquet", "curves.parquet"
BOOTSTRAP_SEED = 0


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """All numbers of an evaluation as plain values, by the names that a run's row uses.

    Returns:
        Scores, the calibration range, counts, and the scores' errors by a bootstrap over classes. `counts.classes`
        are all classes, the `singletons` among them have no positive pair. None for what is undefined; then
        `reason` says why.
    """
    found, settings = evaluation.consistency, evaluation.settings
    errors = class_bootstrap(
        PerClass.of(evaluation),
        resamples=RESAMPLES,
        confidence=CONFIDENCE,
        seed=BOOTSTRAP_SEED,
    )
    named = {score_name(name, settings.eps): estimate for name, estimate in errors.items()}
    return plain(
        {
            **evaluation.scores(),
            "threshold_low": found.threshold_low,
            "threshold_high": found.threshold_high,
            "reason": evaluation.reason,
            "counts": evaluation.counts(),
            "standard_errors": {name: estimate.standard_error for name, estimate in named.items()},
            "intervals": {name: [estimate.low, estimate.high] for name, estimate in named.items()},
            "bootstrap": {
                "over": "classes",
                "resamples": RESAMPLES,
                "confidence": CONFIDENCE,
                "seed": BOOTSTRAP_SEED,
            },
            "settings": settings.recorded(),
        }
    )


def write_evaluation(evaluation: Evaluation, folder: Path, *, labels: np.ndarray | None = None) -> dict[str, Any]:
    """Store an evaluation in a folder, which is made if need be.

    Each file is replaced in one step, and `evaluation.json` comes last: where it is, the others are and are of it.

    Args:
        evaluation: What was found.
        folder: A run's, or any.
        labels: The class of each row of the evaluation, if not its number: strings, for example.

    Returns:
        The `summary`.
    """
    numbers = summary(evaluation)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY).unlink(missing_ok=True)
    names = evaluation.classes.cpu().numpy() if labels is None else labels
    for name, table in ((CLASSES, _classes(evaluation, names)), (CURVES, _curves(evaluation, names))):
        with replacing(folder / name) as temporary:
            parquet.write_table(table, temporary, compression="zstd")
    write_atomic(folder / SUMMARY, json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    return numbers


@dataclass(frozen=True, eq=False)
class EvaluationRecord:
    """An evaluation as it is compared and drawn: read back, or just made.

    Attributes:
        source: The folder that it was read from, or the file that was evaluated.
        numbers: See `summary`.
        labels: Of the classes, increasing.
        thresholds: Of the calibration range's grid, as distances or cosines.
        per_class: What each of them contributed.
    """

    source: Path
    numbers: dict[str, Any]
    labels: np.ndarray
    thresholds: np.ndarray
    per_class: PerClass

    @classmethod
    def of(cls, evaluation: Evaluation, source: Path, labels: np.ndarray) -> "EvaluationRecord":
        """What was just found in `source`; the other arguments as in `write_evaluation`."""
        thresholds = evaluation.consistency.thresholds.cpu().numpy()
        return cls(source, summary(evaluation), labels, thresholds, PerClass.of(evaluation))


def read_evaluation(folder: Path) -> EvaluationRecord:
    """What `write_evaluation` stored.

    Raises:
        ValueError: If there is none, or its files are damaged.
    """
    if not (folder / SUMMARY).is_file():
        raise ValueError(
            f"there is no evaluation in {folder}; `tcm-bench evaluate FILE_OR_RUN --out {folder}` stores one there"
        )
    try:
        numbers = renamed(json.loads((folder / SUMMARY).read_text(encoding="utf-8")))
        settings = numbers["settings"] = renamed(numbers["settings"])
        classes = parquet.read_table(folder / CLASSES)
        curves = parquet.read_table(folder / CURVES, columns=["threshold", "utility"])
        hits = [name for name in classes.column_names if name.startswith("hits_at_")]
        shape = (len(classes), settings["num_thresholds"])
        values = {
            name: curves[name].to_numpy().reshape(shape) if len(curves) else np.full(shape, math.nan)
            for name in curves.column_names
        }
        thresholds = values["threshold"][0]
        per_class = PerClass(
            ks=tuple(int(name.removeprefix("hits_at_")) for name in hits),
            queries=_tensor(classes["queries"].to_numpy()),
            hits=_tensor(
                np.array([classes[name].to_numpy() for name in hits], np.int64).reshape(len(hits), len(classes)).T
            ),
            utilities=_tensor(values["utility"]),
            places=axis_places(settings["axis"], tuple(settings["far_bounds"]), _tensor(thresholds)),
            eps=settings["eps"],
            ranking=settings["ranking"],
        )
        return EvaluationRecord(folder, numbers, np.array(classes["label"].to_pylist()), thresholds, per_class)
    except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
        raise ValueError(
            f"the evaluation in {folder} is damaged ({str(error).partition(chr(10))[0]}); evaluate once more"
        ) from error


def difference(base: EvaluationRecord, other: EvaluationRecord) -> dict[str, Estimate]:
    """``other - base`` of every score that both have, on the same test set, by a bootstrap over its classes.

    Returns:
        By name, as in `summary`.

    Raises:
        ValueError: If test set or settings differ.
    """
    if len(base.labels) != len(other.labels) or (base.labels != other.labels).any():
        missing = {*base.labels.tolist()} ^ {*other.labels.tolist()}
        raise ValueError(
            f"{base.source} and {other.source} were not measured on the same test set: {len(base.labels)} and "
            f"{len(other.labels)} classes, of which {len(missing)} are in one only"
        )
    for name, value in Settings.of(base.numbers["settings"]).of_headline().items():
        if (others := other.numbers["settings"].get(name)) != value:
            raise ValueError(
                f"{base.source} was measured with {name} {value} and {other.source} with {others}; "
                "evaluate both in one way"
            )
    found = class_difference(base.per_class, other.per_class, seed=BOOTSTRAP_SEED)
    return {score_name(name, base.per_class.eps): estimate for name, estimate in found.items()}


def _classes(evaluation: Evaluation, labels: np.ndarray) -> pa.Table:
    found, per_class = evaluation.consistency, PerClass.of(evaluation)
    span = per_class.places[-1] - per_class.places[0]
    counts = {name: getattr(found.curves, name, None) for name in ("positives", "negatives")}
    columns = {
        "images": evaluation.sizes,
        "queries": evaluation.queries,
        **{f"hits_at_{k}": hits for k, hits in zip(evaluation.settings.ks, evaluation.hits.T, strict=True)},
        **{name: torch.full(labels.shape, math.nan) if count is None else count for name, count in counts.items()},
        "mean_utility": torch.trapezoid(per_class.utilities, per_class.places) / span,
        **{f"threshold_{rate}": _in_units(costs, evaluation) for rate, costs in evaluation.own_thresholds.items()},
    }
    return pa.table({"label": labels, **{name: _column(column) for name, column in columns.items()}})


def _in_units(costs: torch.Tensor, evaluation: Evaluation) -> torch.Tensor:
    """Distances, or cosines in place of negated ones; NaN where nothing is known."""
    sign = -1 if evaluation.settings.cost == "similarity" else 1
    return (sign * costs).where(costs.isfinite(), math.nan)


def _curves(evaluation: Evaluation, labels: np.ndarray) -> pa.Table:
    found = evaluation.consistency
    curves = found.curves
    num_thresholds = len(found.thresholds) if curves else 0
    # NaN where there is no curve, so that the same columns come out.
    nothing = torch.empty(len(labels), 0)
    columns = {
        "accepted_positives": curves.accepted_positives if curves else nothing.long(),
        "accepted_negatives": curves.accepted_negatives if curves else nothing.long(),
        "sensitivity": curves.sensitivity if curves else nothing.double(),
        "specificity": curves.specificity if curves else nothing.double(),
        "utility": PerClass.of(evaluation).utilities[:, :num_thresholds],
    }
    return pa.table(
        {
            "label": pa.array(labels).take(np.repeat(np.arange(len(labels)), num_thresholds)),
            "threshold": np.tile(found.thresholds.cpu().numpy()[:num_thresholds], len(labels)),
            **{name: _column(column.flatten()) for name, column in columns.items()},
        }
    )


def _column(values: torch.Tensor) -> pa.Array:
    """NaN becomes null."""
    return pa.array(values.cpu().numpy(), from_pandas=True)


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(values))  # a copy: parquet's memory may not be written to


def plain(value: Any) -> Any:
    """The same with None for NaN, at any depth of dictionaries and lists: what JSON can say."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
