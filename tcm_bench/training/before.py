"""What the features are worth before training changes them."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.nn.functional import normalize

from tcm_bench.data.cached_array import cache_key
from tcm_bench.data.datamodule import RetrievalData
from tcm_bench.evaluation.metric import EmbeddingMetric
from tcm_bench.files import write_atomic
from tcm_bench.results.ledger import BEFORE, write_progress

RECALL = "recall_at_1"

log = logging.getLogger(__name__)


class RecallBefore(Callback):
    """R@1 on the test classes of the features that training starts from; all processes of a run share the pass.

    A checkpoint keeps it, for a run that goes on has other weights. A file keeps it for all runs that start alike.

    Args:
        run_dir: Where the run says what it does.
        metric: Gives `recall_at_1`.
        cache_dir: Of the file.
        decisive: All that decides the features, as plain values; None: no file.

    Attributes:
        value: What was measured, a fraction; None before.
    """

    def __init__(
        self, run_dir: Path, metric: EmbeddingMetric, cache_dir: Path, decisive: Mapping[str, Any] | None = None
    ) -> None:
        self.run_dir = run_dir
        self.metric = metric
        self.value: float | None = None
        self.file = cache_dir / f"before-{cache_key(decisive)}.json" if decisive else None
        self.decisive = decisive

    def state_dict(self) -> dict[str, Any]:
        """What was measured."""
        return {"value": self.value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.value = state_dict["value"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure it, unless the first process knows it already."""
        self.value = trainer.strategy.broadcast(self._known())
        if self.value is not None or trainer.ckpt_path:  # a checkpoint without it: nothing is untrained any more
            return
        write_progress(self.run_dir, BEFORE)
        self.value = self._measured(trainer, pl_module)
        if self.file and trainer.is_global_zero:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(self.file, json.dumps({RECALL: self.value, "of": self.decisive}, indent=2) + "\n")
            except OSError as error:  # the next run measures it again
                log.warning("%s cannot be written (%s)", self.file, error)

    def _known(self) -> float | None:
        if self.value is None and self.file:
            try:
                return float(json.loads(self.file.read_text())[RECALL])
            except (OSError, ValueError, KeyError, TypeError):  # none yet, or a damaged one
                return None
        return self.value

    @torch.no_grad()  # not inference_mode: parameters moved to a GPU in it could not be trained
    def _measured(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> float:
        data, precision = trainer.datamodule, trainer.precision_plugin  # type: ignore[attr-defined]
        assert isinstance(data, RetrievalData)
        embedder = pl_module.get_submodule("embedder")
        backbone = getattr(embedder, "backbone", None) or nn.Identity()
        self.metric.to(pl_module.device)
        embedder.eval()
        for batch in data.unseen(pl_module.device):
            with precision.forward_context():
                features = backbone(precision.convert_input(batch.inputs)).float()
            self.metric.update(normalize(features), batch.labels, batch.indices)
        embedder.train()
        recall = float(self.metric.compute()[RECALL])
        self.metric.reset()
        return recall
