import pytest
import torch

from tcm_bench.losses.pairs import Pairs
from tcm_bench.unit_norm import unit_norm


def test_unit_norm_divides_rows_by_their_norm():
    x = torch.tensor([[3.0, 4.0], [0.0, -2.0]], dtype=torch.float64)
    torch.testing.assert_close(unit_norm(x), torch.tensor([[0.6, 0.8], [0.0, -1.0]]).double())


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_unit_norm_leaves_half_precision(half):
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).to(half)
    assert unit_norm(x).dtype == torch.float32
    torch.testing.assert_close(unit_norm(x), unit_norm(x.double()).float(), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("value", "shown"), [(torch.nan, "nan"), (torch.inf, "inf"), (0.0, "0.0")])
def test_unit_norm_names_the_row_it_cannot_normalize(value, shown):
    x = torch.ones(4, 3)
    x[2] = value
    with pytest.raises(ValueError, match=f"row 2 has norm {shown}"):
        unit_norm(x)


def test_unit_norm_gradient():
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(unit_norm, x.requires_grad_())


def test_masks_split_all_pairs_and_leave_out_the_diagonal():
    pairs = Pairs(unit_norm(torch.randn(4, 3)), torch.tensor([7, 2, 7, 5]))
    positive = torch.zeros(4, 4, dtype=torch.bool)
    positive[0, 2] = positive[2, 0] = True
    assert pairs.positive.equal(positive)
    assert pairs.negative.equal(~positive & ~torch.eye(4, dtype=torch.bool))


def test_similarity_is_the_cosine_computed_once():
    x = unit_norm(torch.randn(6, 8, dtype=torch.float64))
    pairs = Pairs(x, torch.arange(6))
    expected = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=2)
    torch.testing.assert_close(pairs.similarity, expected, rtol=0, atol=1e-14)
    assert pairs.similarity is pairs.similarity


def test_similarity_keeps_full_precision_under_autocast():
    x = unit_norm(torch.randn(6, 64))
    expected = x @ x.T
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not (x @ x.T).float().equal(expected)
        inside = Pairs(x, torch.arange(6)).similarity
    assert inside.equal(expected)


@pytest.mark.parametrize("scale", [0.9, 1.1, torch.nan])
def test_rows_without_unit_norm_are_refused(scale):
    x = unit_norm(torch.randn(4, 8))
    x[3] *= scale
    with pytest.raises(ValueError, match="embedding 3 of the batch has norm"):
        Pairs(x, torch.arange(4))
