import pytest
import torch

from tcm_bench.models.pooling import checked_pooling, pooled

MAP = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 2.0]]]])  # (1, 2, 2, 2)
TOKENS = torch.tensor([[[9.0, 8.0], [7.0, 7.0], [1.0, 2.0], [3.0, 6.0]]])  # class token, register, two patches


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("average", [2.5, 0.5]), ("gem", [25 ** (1 / 3), 2 ** (1 / 3)])],  # (1 + 8 + 27 + 64) / 4 = 25, 8 / 4 = 2
)
def test_maps_by_hand(pooling, expected):
    torch.testing.assert_close(pooled(MAP, pooling, prefix_tokens=None), torch.tensor([expected]))


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("average", [2.0, 4.0]), ("cls", [9.0, 8.0]), ("cls_mean", [9.0, 8.0, 2.0, 4.0])],
)
def test_tokens_by_hand(pooling, expected):
    torch.testing.assert_close(pooled(TOKENS, pooling, prefix_tokens=2), torch.tensor([expected]))


def test_gem_has_a_finite_gradient_at_zero():
    features = torch.zeros(1, 3, 2, 2, requires_grad=True)
    pooled(features, "gem", prefix_tokens=None).sum().backward()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize(
    ("pooling", "prefix_tokens", "sentence"),
    [
        ("max", None, "pooling must be one of average, gem, cls, cls_mean, got 'max'"),
        ("cls", None, "'cls' needs a class token"),
        ("cls_mean", 0, "'cls_mean' needs a class token"),
        ("gem", 1, "'gem' needs a non-negative feature map"),
    ],
)
def test_a_pooling_that_cannot_be_is_refused(pooling, prefix_tokens, sentence):
    with pytest.raises(ValueError, match=sentence):
        checked_pooling(pooling, prefix_tokens=prefix_tokens)
