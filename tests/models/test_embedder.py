import functools

import pytest
import torch
from torch import nn

from tcm_bench.models.embedder import Embedder
from tcm_bench.models.head import Head

HEAD = functools.partial(Head, embedding_dim=4)


class Backbone(nn.Module):
    """Convolution, BatchNorm, dropout and a mean: one layer of every kind that freezing is about."""

    num_features = 6

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        return self.drop(self.norm(self.conv(images))).mean(dim=(2, 3))


def step(embedder: nn.Module) -> None:
    """One step of training as a loop would take it: train mode, forward, backward, update."""
    embedder.train()
    optimizer = torch.optim.SGD(embedder.parameters(), lr=1.0)
    (embedder(torch.randn(8, 3, 4, 4)) @ torch.randn(4)).sum().backward()
    optimizer.step()


def changed(embedder: nn.Module) -> set[str]:
    """Names of parameters and buffers that a step changes."""
    before = {name: tensor.clone() for name, tensor in embedder.state_dict().items()}
    step(embedder)
    return {name for name, tensor in embedder.state_dict().items() if not torch.equal(before[name], tensor)}


HEAD_NAMES = {"head.linear.weight", "head.linear.bias"}
AFFINE = {"backbone.conv.weight", "backbone.norm.weight", "backbone.norm.bias"}
STATISTICS = {"backbone.norm.running_mean", "backbone.norm.running_var", "backbone.norm.num_batches_tracked"}


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        ("none", HEAD_NAMES | AFFINE | STATISTICS),
        ("batch_norm", HEAD_NAMES | AFFINE | {"backbone.conv.bias"}),
        ("backbone", HEAD_NAMES),
    ],
)
def test_a_training_step_changes_what_is_not_frozen(freeze, expected):
    torch.manual_seed(0)
    embedder = Embedder(Backbone(), HEAD, freeze=freeze)
    # the BatchNorm in training removes the convolution's bias: its gradient is rounding noise, either way
    assert changed(embedder) - {"backbone.conv.bias"} == expected - {"backbone.conv.bias"}


@pytest.mark.parametrize("freeze", ["batch_norm", "backbone"])
def test_freezing_survives_train_from_a_parent_and_holds_from_the_start(freeze):
    embedder = Embedder(Backbone(), HEAD, freeze=freeze)
    assert not embedder.backbone.norm.training
    parent = nn.Sequential(embedder)
    parent.eval()
    parent.train()
    assert not embedder.backbone.norm.training
    assert embedder.backbone.drop.training is (freeze == "batch_norm")
    assert embedder.head.training


def test_evaluation_is_deterministic_after_training():
    embedder = Embedder(Backbone(), HEAD).eval()
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(embedder(images), embedder(images))


def test_vectors_pass_the_backbone_by():
    embedder = Embedder(Backbone(), HEAD, freeze="backbone")
    images = torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(embedder(embedder.backbone(images)), embedder(images))


def test_an_embedder_of_vectors_holds_a_head_only():
    embedder = Embedder(None, HEAD, num_features=6)
    assert set(embedder.state_dict()) == HEAD_NAMES | {"head.origin", "head.unit"}
    torch.testing.assert_close(embedder(torch.randn(5, 6)).norm(dim=1), torch.ones(5))
    with pytest.raises(ValueError, match=r"takes vectors .* got a batch of shape \(2, 3, 4, 4\)"):
        embedder(torch.randn(2, 3, 4, 4))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="freeze must be one of none, batch_norm, backbone, got 'head'"):
        Embedder(Backbone(), HEAD, freeze="head")
    with pytest.raises(ValueError, match="either a backbone or the num_features"):
        Embedder(None, HEAD)
    with pytest.raises(ValueError, match="either a backbone or the num_features"):
        Embedder(Backbone(), HEAD, num_features=6)
