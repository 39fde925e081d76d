"""The module without the rest: gradient caching, parameter groups, learning rates."""

from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection

from tcm_bench.data.batch import Batch
from tcm_bench.evaluation.metric import EvaluationMetric
from tcm_bench.losses.objective import Objective
from tcm_bench.losses.pytorch_metric_learning import PytorchMetricLearning
from tcm_bench.losses.smooth_ap import SmoothAP
from tcm_bench.losses.tcm import TCM
from tcm_bench.models.embedder import Embedder
from tcm_bench.models.head import Head
from tcm_bench.multiplication import multiply
from tcm_bench.training.diverged import read_diverged
from tcm_bench.training.module import RetrievalModule
from tcm_bench.training.schedules import Cosine, MultiStep

pytestmark = pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training")

WAYS = ("forward", "backward")
LABELS = torch.arange(7).repeat_interleave(2)[:13]  # the last class is lonely


class SmallBackbone(nn.Module):
    """A convolution with BatchNorm, pooled."""

    num_features = 6

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.GELU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, images):
        return self.layers(images).flatten(1)


class Proxies(nn.Module):
    """A loss with parameters of its own."""

    def __init__(self):
        super().__init__()
        self.proxies = nn.Parameter(torch.eye(7, 4))

    def forward(self, embeddings, labels):
        return nn.functional.cross_entropy(embeddings @ self.proxies.T, labels)


def module(base=None, *, freeze="batch_norm", **options) -> RetrievalModule:
    torch.manual_seed(0)
    options = {"schedule": Cosine(), "make_optimizer": partial(torch.optim.SGD, lr=0.1), **options}
    return RetrievalModule(
        Embedder(SmallBackbone(), partial(Head, embedding_dim=4), freeze=freeze),
        Objective(base or SmoothAP(), TCM()),
        MetricCollection({"recall": EvaluationMetric(ks=[1])}),
        **options,
    )


def gradients(chunk_size: int | None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    part = module(chunk_size=chunk_size).double()
    part.embedder.head.float().double()
    images = torch.randn(13, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    loss = part.objective(part.embed(images), LABELS)["loss"]
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in part.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk_size", [1, 5, 13, 100])
def test_gradient_caching_leaves_loss_and_gradients_as_they_are(chunk_size):
    whole_loss, whole = gradients(None)
    loss, cached = gradients(chunk_size)
    torch.testing.assert_close(loss, whole_loss, rtol=1e-6, atol=1e-7)  # embeddings meet the loss in float32
    assert cached.keys() == whole.keys()
    for name, gradient in whole.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(cached[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_gradient_caching_keeps_no_activations_of_other_chunks():
    """What the graph holds between forward and backward does not grow with the network's width times the batch."""

    def held(chunk_size: int | None) -> int:
        part, images = module(chunk_size=chunk_size), torch.randn(64, 3, 8, 8)
        saved = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal saved
            saved += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            part.embed(images)
        return saved

    assert held(8) < 0.5 * held(None)


def test_gradient_caching_is_refused_where_it_would_change_batch_statistics():
    with pytest.raises(ValueError, match=r"chunk_size=4 needs frozen BatchNorm.*set model\.freeze=batch_norm"):
        module(freeze="none", chunk_size=4)
    assert module(freeze="none").chunk_size is None


class Steps(pl.Callback):
    """Notes the rate of every group at each step that the optimizer takes."""

    def __init__(self):
        self.rates = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append([group["lr"] for group in optimizer.param_groups])


def trained(part: RetrievalModule, epochs: int, batches: int, **settings) -> tuple[pl.Trainer, list[list[float]]]:
    images = torch.randn(13, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    loader = DataLoader([Batch(images, LABELS, torch.arange(13))] * batches, batch_size=None)
    steps = Steps()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=[steps], limit_val_batches=0, **quiet, **settings
    )
    trainer.fit(part, loader, val_dataloaders=[])
    return trainer, steps.rates


class Noting(torch.autograd.Function):
    """The identity; notes how matrices are multiplied when it is passed, forward and backward."""

    @staticmethod
    def forward(ctx, x, name, noted):
        ctx.name, ctx.noted = name, noted
        noted.append((name, "forward", torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        ctx.noted.append((ctx.name, "backward", torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return gradient, None, None


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_only_the_networks_own_products_may_be_rounded(chunk_size):
    noted = []

    class Layer(SmallBackbone):
        def forward(self, images):
            return Noting.apply(super().forward(images), "network", noted)

    class Loss(SmoothAP):
        def forward(self, pairs):
            pairs.embeddings = Noting.apply(pairs.embeddings, "loss", noted)  # of its own the last backwards
            return Noting.apply(super().forward(pairs), "loss", noted)

    part = module(Loss(), matmul_precision="high", chunk_size=chunk_size)
    part.embedder.backbone = Layer()
    part.embedder.train()
    multiply("highest")
    trained(part, epochs=1, batches=2)
    assert {one for one in noted if one[0] == "network"} == {("network", way, "high", True) for way in WAYS}
    assert {one for one in noted if one[0] == "loss"} == {("loss", way, "highest", False) for way in WAYS}
    assert torch.get_float32_matmul_precision() == "highest"


def test_head_and_proxies_learn_at_their_own_rates_and_the_backbone_at_the_base_rate():
    part = module(PytorchMetricLearning(Proxies()), head_lr_scale=10.0, loss_lr_scale=100.0)
    trainer, rates = trained(part, epochs=1, batches=1)
    assert rates == [[pytest.approx(0.1), pytest.approx(1.0), pytest.approx(10.0)]]
    name = {id(p): name for name, p in part.named_parameters()}
    grouped = {
        group["name"]: sorted(name[id(p)] for p in group["params"]) for group in trainer.optimizers[0].param_groups
    }
    assert {word.split(".")[1] for word in grouped["backbone"]} == {"backbone"}
    assert grouped["head"] == ["embedder.head.linear.bias", "embedder.head.linear.weight"]
    assert grouped["loss"] == ["objective.base.loss.proxies"]
    assert sorted(word for words in grouped.values() for word in words) == sorted(name.values())  # each in one


def test_frozen_parameters_are_not_optimized_and_do_not_move():
    part = module(freeze="backbone")
    before = {name: value.clone() for name, value in part.state_dict().items()}
    trainer, _ = trained(part, epochs=1, batches=3)
    (group,) = trainer.optimizers[0].param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in part.embedder.head.parameters()}
    moved = {name for name, value in part.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"embedder.head.linear.weight", "embedder.head.linear.bias"}


def test_cosine_acts_at_every_step_from_the_full_rate_to_almost_none():
    _, rates = trained(module(), epochs=3, batches=4)
    expected = [0.1 * 0.5 * (1 + np.cos(np.pi * step / 12)) for step in range(12)]
    assert [rate for rate, _ in rates] == pytest.approx(expected)
    assert [rate for _, rate in rates] == pytest.approx(expected)


def test_milestones_are_counted_in_epochs():
    _, rates = trained(module(schedule=MultiStep(milestones=(1, 2), gamma=0.5)), epochs=3, batches=2)
    assert [rate for rate, _ in rates] == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])


class BrokenGradient(SmoothAP):
    """A finite loss; its gradient is NaN from a step on."""

    def __init__(self, step: int):
        super().__init__()
        self.left = step

    def forward(self, pairs):
        self.left -= 1
        root = (pairs.embeddings - pairs.embeddings.detach()).square().sum().sqrt()  # 0, of infinite slope
        return super().forward(pairs) + (root if self.left < 0 else 0)


@pytest.mark.parametrize("batches", [3, 2])
def test_a_gradient_that_is_not_finite_is_found_in_the_next_step_or_when_there_is_none(tmp_path, batches):
    part = module(BrokenGradient(step=1))
    with pytest.raises(ValueError, match=r"by step 2 .*the step before left weights that are not finite, embedder\."):
        trained(part, epochs=1, batches=batches, default_root_dir=tmp_path)
    stopped = read_diverged(tmp_path)
    assert (stopped.epoch, stopped.batch, stopped.step) == (0, min(batches, 3) - 1, 2)
    assert stopped.indices.tolist() == list(range(13))
    assert stopped.labels.equal(LABELS)


def test_a_step_asks_a_device_once_whether_its_numbers_are_any(monkeypatch):
    """Each answer makes the process wait for a GPU; counted where a tensor becomes a bool or a number."""
    asked = []
    for name in ("__bool__", "item", "tolist"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, original=original, name=name: asked.append(name) or original(self)
        )
    part = module()
    images = torch.randn(13, 3, 8, 8)
    part.objective(part.embed(images), LABELS)["loss"].backward()
    assert asked == ["__bool__"]
