import pytest
import torch

from tcm_bench.models.head import Head


def test_rows_are_the_normalized_linear_map():
    head = Head(3, 2)
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]))
        head.linear.bias.copy_(torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(head(torch.tensor([[3.0, 1.0, 5.0]])), torch.tensor([[0.6, 0.8]]))


def test_layer_norm_removes_scale_and_shift_of_the_input():
    features = torch.randn(4, 8)
    with_norm, without = Head(8, 5, layer_norm=True), Head(8, 5)
    torch.testing.assert_close(with_norm(features * 7 + 3), with_norm(features), rtol=1e-3, atol=1e-3)
    assert (without(features * 7 + 3) - without(features)).abs().max() > 0.1


def test_embeddings_are_float32_and_unit_norm_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = Head(8, 5)(torch.randn(4, 8))
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4), rtol=0, atol=1e-6)


def test_float64_stays_float64():
    assert Head(8, 5).double()(torch.randn(4, 8, dtype=torch.float64)).dtype == torch.float64


def test_an_empty_embedding_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 8 and 0"):
        Head(8, 0)


def test_a_centered_head_measures_vectors_from_their_mean():
    features = torch.randn(50, 8) + 100
    head = Head(8, 5)
    shifted = features - features.mean(dim=0)
    shifted = head(shifted / shifted.norm(dim=1).mean())
    head.center(features)
    torch.testing.assert_close(head(features), shifted, rtol=1e-4, atol=1e-4)
    assert {"origin", "unit"} <= set(head.state_dict())
    head.center(torch.ones(3, 8))  # all alike: there is no unit
    assert head(torch.ones(1, 8)).isfinite().all()
    assert head.origin.requires_grad is False
