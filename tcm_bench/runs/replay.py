"""The batch at which a run's training diverged, computed again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf
from torch import Tensor

from tcm_bench.losses.pairs import UnusableBatch
from tcm_bench.models.state import load_exactly
from tcm_bench.runs.build import build
from tcm_bench.runs.experiment import put_together
from tcm_bench.runs.trained import configuration
from tcm_bench.training.diverged import DIVERGED, Diverged, read_diverged


@dataclass(frozen=True, eq=False)
class Replayed:
    """What came of a batch the second time.

    Attributes:
        stopped: The first time.
        terms: Of the objective, by name.
        embeddings: Of the items, float32 ``(items, dim)``, with their graph.
        classes: Of the items, in the training table; a batch's labels number only the classes that are drawn from.
        broken_weights: Names of the parameters that were not finite before the step.
    """

    stopped: Diverged
    terms: dict[str, float]
    embeddings: Tensor
    classes: list[int]
    broken_weights: list[str]


def replayed(run_dir: Path, trusted: Sequence[str] = ()) -> Replayed:
    """Take the step again at which a run's training diverged: its weights, its items, its random numbers.

    In one process, on the kind of device that the run's configuration names. The terms are those of the first time; if
    several processes shared the batch, up to rounding and to what is random in the network.

    Args:
        run_dir: The run's folder.
        trusted: Packages beside the project's that the run's configuration may name.

    Raises:
        ValueError: If the run has not diverged, its file is damaged, or its parts cannot be built.
    """
    cfg, stopped = configuration(run_dir), read_diverged(run_dir)
    OmegaConf.update(cfg, "trusted_packages", list(trusted))
    module, parts = put_together(cfg)
    load_exactly(module, stopped.state, run_dir / DIVERGED)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = build(cfg.trainer, trusted, accelerator=cfg.machine.accelerator, devices=1, **quiet)
    device = trainer.strategy.root_device
    epoch = 0 if cfg.trainer.get("overfit_batches") else stopped.epoch  # then every epoch has the first one's images
    precision = trainer.strategy.precision_plugin
    module = precision.convert_module(module).to(device).train()
    batch = precision.convert_input(parts.data.training_items(epoch, stopped.indices.tolist(), device))
    with precision.forward_context():
        module.seed_step(stopped.epoch, stopped.batch)
        embeddings = module.embed(batch.inputs)
        try:
            terms = {name: float(term) for name, term in module.objective(embeddings, batch.labels).items()}
        except UnusableBatch as error:
            terms = error.terms
    classes = parts.data.splits.train.labels[stopped.indices.numpy()].tolist()
    return Replayed(stopped, terms, embeddings, classes, module.broken_weights())
