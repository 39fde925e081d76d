"""What comes of a trained network: what was measured, and the files that a run keeps of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from tcm_bench.data.datamodule import RetrievalData
from tcm_bench.data.table import Table
from tcm_bench.evaluation.evaluate import Evaluation
from tcm_bench.evaluation.files import plain, write_evaluation
from tcm_bench.evaluation.metric import EmbeddingMetric, EvaluationMetric
from tcm_bench.process import is_first_process
from tcm_bench.results.ledger import EMBEDDINGS, LAST_EPOCH, WEIGHTS
from tcm_bench.tensors import write_tensors
from tcm_bench.training.module import RetrievalModule


@dataclass(frozen=True)
class Measured:
    """What an experiment adds to its row; see `tcm_bench.results.ledger.Result`."""

    reason: str | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    intervals: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    threshold: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    selection: str = LAST_EPOCH
    network: dict[str, Any] = field(default_factory=dict)
    data_hash: str | None = None
    step_s: float | None = None


def roles(table: Table) -> tuple[Tensor | None, Tensor | None]:
    """Which rows of a table are queries and which are searched, if it says."""
    query, gallery = (None if role is None else torch.from_numpy(role) for role in (table.query, table.gallery))
    return query, gallery


def measured(
    module: RetrievalModule,
    data: RetrievalData,
    identity: dict[str, Any],
    before: float | None,
    intervals: Mapping[str, Any],
    selection: str,
    step_s: float | None,
) -> Measured:
    """What the metrics of a tested module found, in the places of a row.

    Args:
        module: Trained and tested.
        data: What it was trained and tested on.
        identity: Names the backbone and its weights.
        before: R@1 before training.
        intervals: See `store`.
        selection: Which weights it has.
        step_s: Median seconds of a step.
    """
    tested = {"": module.test_metrics, "_seen": module.seen_metrics}
    if len(data.validation_classes):
        tested["_val"] = module.held_out_metrics
    scores = {f"{name}{of}": value for of, one in tested.items() for name, value in _floats(one.compute()).items()}
    found = {"unseen": _evaluations(module.test_metrics), "seen": _evaluations(module.seen_metrics)}
    held_out = _evaluations(module.held_out_metrics) if len(data.validation_classes) else []
    reasons = [
        f"{classes} classes: {one.reason}"
        for classes, evaluations in found.items()
        for one in evaluations
        if one.reason
    ]
    threshold: dict[str, Any] = {}
    counts = {
        "train_classes": data.splits.train.num_classes,
        "train_images": len(data.splits.train),
        "test_classes": data.splits.test.num_classes,
        "test_images": len(data.splits.test),
        "validation_classes": len(data.validation_classes),
        "shared_classes": len(data.shared_classes),
        "classes_per_batch": data.classes_per_batch,
        "images_per_class": data.images_per_class,
    }
    for one in found["unseen"]:
        ends = {"threshold_low": one.consistency.threshold_low, "threshold_high": one.consistency.threshold_high}
        threshold |= {**one.settings.recorded(), **plain(ends)}
        counts |= one.counts()
    for one in held_out:
        threshold |= plain({"strictest_cosine_val": one.strictest_cosine})
    return Measured(
        reason="; ".join(reasons) or None,
        metrics={**scores, "recall_at_1_before": before},
        intervals={name: (low, high) for name, (low, high) in intervals.items()},
        threshold=threshold,
        counts=counts,
        network=identity,
        selection=selection,
        data_hash=data.splits.fingerprint,
        step_s=None if step_s is None else round(step_s, 6),
    )


def store(run_dir: Path, module: RetrievalModule) -> dict[str, Any]:
    """The test embeddings, row for row as the metrics saw them, what they came to by class, and the trained weights.

    Returns:
        Of each score the ends of its interval; in the first process only, which alone writes the row.
    """
    gathered = next(metric for metric in module.test_metrics.values() if isinstance(metric, EmbeddingMetric))
    with gathered.sync_context():  # every process has a share of the rows
        embeddings, labels, indices = gathered.table()
    if not is_first_process():
        return {}
    masks = {"query": gathered.query, "gallery": gathered.gallery}
    tensors = {
        "embeddings": embeddings.float(),
        "labels": labels.long(),
        "indices": indices.long(),
        **{name: role[indices.to(role.device)] for name, role in masks.items() if role is not None},
    }
    write_tensors(run_dir / EMBEDDINGS, tensors)
    intervals: dict[str, Any] = {}
    for evaluation in _evaluations(module.test_metrics):
        intervals |= write_evaluation(evaluation, run_dir)["intervals"]
    write_tensors(run_dir / WEIGHTS, module.embedder.state_dict())
    return intervals


def _evaluations(metrics: MetricCollection) -> list[Evaluation]:
    """What was computed last."""
    return [
        metric.result
        for metric in metrics.values()
        if isinstance(metric, EvaluationMetric) and isinstance(metric.result, Evaluation)
    ]


def _floats(values: Mapping[str, Tensor]) -> dict[str, float | None]:
    """Plain numbers, None for what is undefined."""
    found: dict[str, float | None] = plain({name: float(value) for name, value in values.items()})
    return found
