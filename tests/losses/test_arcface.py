"""ArcFace: the library's value everywhere, and a gradient where the library's is infinite."""

import pytest
import torch
from pytorch_metric_learning.losses import ArcFaceLoss

from tcm_bench.losses.arcface import ArcFace

CENTERS = torch.tensor([[1.0, 0.0, -0.6], [0.0, 1.0, 0.8]])  # a column each


def made(kind, dtype=torch.float32):
    loss = kind(num_classes=3, embedding_size=2, margin=28.6, scale=8)
    loss.W.data = CENTERS.to(dtype)
    return loss


def test_the_value_and_the_gradient_are_the_librarys_between_the_centers():
    angles = torch.linspace(0.1, 6.1, 9, dtype=torch.float64)
    labels = torch.arange(9) % 3
    found = []
    for kind in (ArcFace, ArcFaceLoss):
        embeddings = torch.stack([angles.cos(), angles.sin()], dim=1).requires_grad_()
        loss = made(kind, torch.float64)(embeddings, labels)
        loss.backward()
        found.append((loss, embeddings.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("side", [1.0, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_embedding_at_its_center_or_opposite_to_it_has_a_gradient(side, dtype):
    gradients = []
    for kind in (ArcFace, ArcFaceLoss):
        embeddings = torch.tensor([[side, 0.0], [0.6, 0.8]], dtype=dtype, requires_grad=True)
        loss = made(kind, dtype)
        value = loss(embeddings, torch.tensor([0, 1]))
        value.backward()
        assert value.isfinite()
        gradients.append(embeddings.grad.isfinite().all() and loss.W.grad.isfinite().all())
    assert gradients[0]
    assert not gradients[1]  # once the library's is finite as well, this class can go
