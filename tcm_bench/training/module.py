"""The Lightning module: wiring only, no formula."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint
from torchmetrics import MetricCollection

from tcm_bench.data.batch import Batch
from tcm_bench.losses.pairs import UnusableBatch
from tcm_bench.multiplication import Precision, multiplied, multiply
from tcm_bench.training.diverged import Diverged, write_diverged
from tcm_bench.training.schedules import Schedule

TERMS = "terms"  # in a checkpoint
LATER_STEP = (
    "lower optim.optimizer.lr, or set trainer.gradient_clip_val (in a mixed precision with optim.optimizer.fused=false)"
)
FIRST_STEP = "no step has been taken yet, so look for the fault in the data, the weights or the loss"


class RetrievalModule(pl.LightningModule):
    """Train an embedder; evaluate it on classes it has never seen, and on some it has."""

    def __init__(
        self,
        embedder: nn.Module,
        objective: nn.Module,
        metrics: MetricCollection,
        make_optimizer: Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer],
        schedule: Schedule,
        *,
        head_lr_scale: float = 1.0,
        loss_lr_scale: float = 1.0,
        chunk_size: int | None = None,
        matmul_precision: Precision = "highest",
        seed: int = 0,
    ) -> None:
        """Take every part ready made.

        Args:
            embedder: From a batch's inputs to unit-norm embeddings.
            objective: From embeddings and labels to named terms, `loss` among them.
            metrics: Cloned for validation while training, and for test, seen and held-out classes at the end.
            make_optimizer: From parameter groups to the optimizer.
            schedule: Factor of the learning rate over epochs.
            head_lr_scale: Rate of the embedding head over that of the backbone.
            loss_lr_scale: Rate of the objective's own parameters over that of the backbone.
            chunk_size: Embed a batch in pieces of this many items and keep no activations, so that the memory of a
                step does not grow with the batch; the gradient is the same. None: whole.
            matmul_precision: Of the float32 products of the embedder, forward and backward; those of the objective and
                of the metrics are exact.
            seed: Of what is random in a network, such as dropout.
        """
        super().__init__()
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"machine.chunk_size must be at least 1, or null for the whole batch, got {chunk_size}")
        if chunk_size is not None and _updates_batch_statistics(embedder):
            raise ValueError(
                f"machine.chunk_size={chunk_size} needs frozen BatchNorm statistics, which would depend on the "
                "chunks: set model.freeze=batch_norm, or machine.chunk_size=null"
            )
        self.embedder = embedder
        self.objective = objective
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone()
        self.seen_metrics = metrics.clone()
        self.held_out_metrics = metrics.clone()
        self.make_optimizer = make_optimizer
        self.schedule = schedule
        self.head_lr_scale = head_lr_scale
        self.loss_lr_scale = loss_lr_scale
        self.chunk_size = chunk_size
        self.matmul_precision = matmul_precision
        self.seed = seed
        self.terms: list[Tensor] = []  # of the epoch's steps; Lightning's own averaging costs 7 ms a step
        self.last: tuple[int, int, Tensor] | None = None  # epoch, number of the batch, labels and indices of its items

    def embed(self, inputs: Tensor) -> Tensor:
        """Embeddings of a batch, by chunks if asked, float32 whatever the precision of the network."""
        with multiplied(self.matmul_precision):
            if self.chunk_size is None or not self.training:
                return self.embedder(inputs).float()
            chunks = [checkpoint(self.embedder, chunk, use_reentrant=False) for chunk in inputs.split(self.chunk_size)]
            return torch.cat(chunks).float()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the terms of the epoch so far, which its mean is taken of."""
        checkpoint[TERMS] = torch.stack(self.terms).cpu() if self.terms else torch.empty(0, 0)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them up."""
        self.terms = list(checkpoint[TERMS])

    def on_train_start(self) -> None:
        """Bring what a checkpoint had to where the steps are."""
        self.terms = [terms.to(self.device) for terms in self.terms]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one step over the batch of all ranks; the mean of every term over the epoch is `train/<term>`.

        `train/lr` is the first group's learning rate in the last step of the epoch.

        Each rank embeds its part and takes the loss of the whole: the gradient that reaches the parameters is that of
        one process with the whole batch, because the gather's backward sums over ranks and DDP divides by their number.
        """
        self.seed_step(self.current_epoch, batch_idx, self.global_rank)
        embeddings, items = self.embed(batch.inputs), torch.stack([batch.labels, batch.indices], dim=1)
        if embeddings.requires_grad:  # backwards the network comes after the objective, which ends with this gradient
            embeddings.register_hook(lambda _: multiply(self.matmul_precision))
        if self.trainer.world_size > 1:
            embeddings, items = self._gathered(embeddings, sync_grads=True), self._gathered(items)
        self.last = self.current_epoch, batch_idx, items
        labels = items[:, 0]
        try:
            terms = self.objective(embeddings, labels)
        except UnusableBatch as error:  # in every process: each has the terms of the whole batch
            raise self._diverged(str(error), error.terms) from None
        self.terms.append(torch.stack([term.detach() for term in terms.values()]))
        steps_now = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0
        if self.trainer.is_last_batch or (steps_now and self.global_step + 1 == self.trainer.max_steps):
            means = torch.stack(self.terms).mean(dim=0)  # unscaled: each rank has the terms of the whole batch
            self.terms.clear()
            logged = {f"train/{name}": mean for name, mean in zip(terms, means.unbind(), strict=True)}
            logged["train/lr"] = torch.tensor(self.trainer.optimizers[0].param_groups[0]["lr"])
            self.log_dict(logged, on_step=False, on_epoch=True, batch_size=len(labels))
        return terms["loss"]

    def on_after_backward(self) -> None:
        """Multiply exactly again, see `training_step`."""
        multiply("highest")

    def seed_step(self, epoch: int, batch_idx: int, rank: int = 0) -> None:
        """Make what is random in a network a function of the step, so that a resumed run, or a replay, has the same."""
        number = hash((self.seed, epoch, batch_idx, rank)) % 2**63
        torch.default_generator.manual_seed(number)
        if self.device.type != "cpu":  # torch.manual_seed writes down where it was called for devices not in use: 1 ms
            torch.get_device_module(self.device).manual_seed(number)

    def on_validation_start(self) -> None:
        """Refuse to measure a network that its last step has broken; in training the next step would tell."""
        self._check_weights()

    def on_train_epoch_end(self) -> None:
        """Likewise: before a checkpoint of them is written, so that the same command comes to the same end."""
        self._check_weights()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Gather embeddings of held-out training classes."""
        self.val_metrics.update(self.embed(batch.inputs), batch.labels, batch.indices)

    def on_validation_epoch_end(self) -> None:
        """Compute and log the validation metrics."""
        self.log_dict(self.val_metrics.compute())
        self.val_metrics.reset()

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Gather embeddings of unseen (loader 0), of seen (1) and of held-out classes (2, if there are any)."""
        self._tested[dataloader_idx].update(self.embed(batch.inputs), batch.labels, batch.indices)

    def on_test_epoch_end(self) -> None:
        """Compute the metrics where the rows are; they, and the rows, stay for whoever wants them."""
        for metrics, _ in zip(self._tested, self.trainer.test_dataloaders or (), strict=False):
            metrics.compute()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Backbone, head and objective each in a group of its own rate; the schedule acts every step."""
        head = getattr(self.embedder, "head", self.embedder)
        of_head, of_loss = ({id(p) for p in part.parameters()} for part in (head, self.objective))
        scales = {"backbone": 1.0, "head": self.head_lr_scale, "loss": self.loss_lr_scale}
        groups: dict[str, list[nn.Parameter]] = {name: [] for name in scales}
        for parameter in self.parameters():
            if parameter.requires_grad:
                name = "loss" if id(parameter) in of_loss else "head" if id(parameter) in of_head else "backbone"
                groups[name].append(parameter)
        optimizer = self.make_optimizer([{"params": group, "name": name} for name, group in groups.items() if group])
        for group in optimizer.param_groups:
            group["lr"] *= scales[group["name"]]
        epochs = self.trainer.max_epochs or 1
        self.trainer.fit_loop.setup_data()  # which counts the batches
        steps_per_epoch = max(math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches), 1)
        scheduler = LambdaLR(optimizer, lambda step: self.schedule(step / steps_per_epoch, epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def _tested(self) -> tuple[MetricCollection, MetricCollection, MetricCollection]:
        """What the loaders of the test are measured by, in their order."""
        return self.test_metrics, self.seen_metrics, self.held_out_metrics

    def broken_weights(self) -> list[str]:
        """Names of the parameters that are not finite."""
        names, parameters = zip(*self.named_parameters(), strict=True)
        finite = torch.stack([parameter.detach().isfinite().all() for parameter in parameters]).tolist()  # one wait
        return [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]

    def _check_weights(self) -> None:
        if self.last is not None and self.broken_weights():
            raise self._diverged("", {})

    def _diverged(self, fault: str, terms: dict[str, float]) -> ValueError:
        """The error to raise when the numbers of training have left the range of numbers; the batch goes to a file."""
        assert self.last is not None
        (epoch, batch, items), step = self.last, self.global_step
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        if broken := self.broken_weights():
            more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            fault = f"the step before left weights that are not finite, {broken[0]}{more}"
        labels, indices = items.cpu().unbind(dim=1)
        stopped = Diverged(epoch, batch, step, indices, labels, terms, dict(self.state_dict()))
        folder = Path(self.trainer.default_root_dir)
        is_written = not self.trainer.is_global_zero or write_diverged(folder, stopped)  # all say the same
        found = "".join(f", {name} {value:.4g}" for name, value in terms.items())
        return ValueError(
            f"training diverged by step {step} (epoch {epoch}, batch {batch}) at a learning rate of "
            f"{rate:g} ({fault}{found}): "
            + (LATER_STEP if step else FIRST_STEP)
            + (f"; `tcm-bench replay {folder}` computes this batch again" if is_written else "")
        )

    def _gathered(self, rows: Tensor, *, sync_grads: bool = False) -> Tensor:
        """Rows of all ranks, in the order of the ranks."""
        gathered = self.all_gather(rows, sync_grads=sync_grads)
        assert isinstance(gathered, Tensor)
        return gathered.flatten(0, 1)


def _updates_batch_statistics(module: nn.Module) -> bool:
    """Whether a training step of `module` would move BatchNorm running statistics."""
    was_training = module.training
    moving = any(
        isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training for part in module.train().modules()
    )
    module.train(was_training)
    return moving
