"""What comes of a trained network: what is measured before and after, and the files that a run keeps of it."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from tcm_bench.data.batch import Batch
from tcm_bench.data.datamodule import RetrievalData
from tcm_bench.data.table import Table
from tcm_bench.evaluation.files import write_evaluation
from tcm_bench.evaluation.gathered import EmbeddingMetric
from tcm_bench.evaluation.metric import Evaluation
from tcm_bench.evaluation.retrieval import recall_at_k
from tcm_bench.models.embedder import Embedder
from tcm_bench.process import is_first_process
from tcm_bench.results.ledger import EMBEDDINGS, WEIGHTS
from tcm_bench.training.module import RetrievalModule

NOT_A_SCORE = ("num_", "d_m")  # counts and the ends of the calibration range have places of their own


@dataclass(frozen=True)
class Measured:
    """What an experiment adds to its row; see `tcm_bench.results.ledger.Result`."""

    reason: str | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    threshold: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    data_hash: str | None = None


@torch.no_grad()  # not inference_mode: parameters moved to a GPU in it could not be trained
def recall_before(data: RetrievalData, embedder: Embedder, device: str) -> float:
    """R@1 on the test classes of the features that training starts from."""
    unseen, _ = data.test_dataloader()
    backbone = (embedder.backbone or nn.Identity()).to(device).eval()
    rows = []
    for batch in unseen:
        batch = data.on_after_batch_transfer(Batch(*(tensor.to(device) for tensor in batch)))
        rows.append((normalize(backbone(batch.inputs).float()), batch.labels, batch.indices))
    embedder.train()
    features, labels, indices = (torch.cat(column) for column in zip(*rows, strict=True))
    query, gallery = (None if role is None else role.to(device)[indices] for role in roles(data.splits.test))
    return float(recall_at_k(features, labels, query=query, gallery=gallery))


def roles(table: Table) -> tuple[Tensor | None, Tensor | None]:
    """Which rows of a table are queries and which are searched, if it says."""
    query, gallery = (None if role is None else torch.from_numpy(role) for role in (table.query, table.gallery))
    return query, gallery


def measured(module: RetrievalModule, data: RetrievalData, identity: dict[str, Any], before: float) -> Measured:
    """What the metrics of a tested module say, split into scores, the threshold's settings, and counts.

    Args:
        module: Trained and tested.
        data: What it was trained and tested on.
        identity: Names the backbone and its weights.
        before: See `recall_before`.
    """
    unseen = _plain(module.test_metrics.compute())
    seen = _plain(module.seen_metrics.compute())
    evaluations = [
        [metric for metric in metrics.values() if isinstance(metric, Evaluation)]
        for metrics in (module.test_metrics, module.seen_metrics)
    ]
    reasons = [
        f"{classes} classes: {metric.result.consistency.reason}"
        for classes, found in zip(("unseen", "seen"), evaluations, strict=True)
        for metric in found
        if metric.result and metric.result.consistency.reason
    ]
    values = {name: value for name, value in unseen.items() if not name.startswith(NOT_A_SCORE)}
    return Measured(
        reason="; ".join(reasons) or None,
        metrics={**values, "recall_at_1_before": before, **{f"{name}_seen": seen[name] for name in values}},
        threshold={
            **{key: value for metric in evaluations[0] for key, value in metric.settings.items()},
            **{name: unseen[name] for name in ("d_min", "d_max") if name in unseen},
        },
        counts={
            "train_classes": data.splits.train.num_classes,
            "train_images": len(data.splits.train),
            "test_classes": data.splits.test.num_classes,
            "test_images": len(data.splits.test),
            "classes_per_batch": data.classes_per_batch,
            "images_per_class": data.images_per_class,
            **{name.removeprefix("num_"): int(value or 0) for name, value in unseen.items() if name.startswith("num_")},
        },
        network=identity,
        data_hash=data.splits.fingerprint,
    )


def store(run_dir: Path, module: RetrievalModule) -> None:
    """The test embeddings, row for row as the metrics saw them, what they came to by class, and the trained weights."""
    gathered = next(metric for metric in module.test_metrics.values() if isinstance(metric, EmbeddingMetric))
    with gathered.sync_context():  # every process has a share of the rows
        embeddings, labels, indices = gathered.table()
    if not is_first_process():
        return
    masks = {"query": gathered.query, "gallery": gathered.gallery}
    tensors = {
        "embeddings": embeddings.float(),
        "labels": labels.long(),
        "indices": indices.long(),
        **{name: role[indices.to(role.device)] for name, role in masks.items() if role is not None},
    }
    _save(run_dir / EMBEDDINGS, tensors)
    for metric in module.test_metrics.values():
        if isinstance(metric, Evaluation) and metric.result is not None:
            write_evaluation(metric.result, run_dir, metric.settings)
    _save(run_dir / WEIGHTS, dict(module.embedder.state_dict()))


def _plain(values: Mapping[str, Tensor]) -> dict[str, float | None]:
    """Floats, None for what is undefined."""
    floats = {name: float(value) for name, value in values.items()}
    return {name: None if math.isnan(value) else value for name, value in floats.items()}


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        temporary.chmod(0o644)  # safetensors makes files that only their owner may read
        temporary.replace(path)
    except SafetensorError as error:  # its way to say that the disk is full
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
