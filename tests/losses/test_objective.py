import pytest
import torch

from tcm_bench.losses.objective import Objective
from tcm_bench.losses.pairs import Pairs, UnusableBatch
from tcm_bench.losses.rs_at_k import RSAtK
from tcm_bench.losses.smooth_ap import SmoothAP
from tcm_bench.losses.tcm import TCM
from tcm_bench.unit_norm import unit_norm


def batch():
    x = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return unit_norm(x + 1), torch.arange(12) % 4


@pytest.mark.parametrize("base", [SmoothAP(), RSAtK()])
def test_terms_are_those_of_the_parts_and_add_up(base):
    x, y = batch()
    tcm = TCM(positive_weight=0.5, negative_weight=2.0)
    terms = Objective(base, tcm)(x, y)
    parts = tcm.terms(Pairs(x, y))
    assert terms["base"].equal(base(Pairs(x, y)))
    assert terms["tcm"].equal(parts.loss)
    assert terms["tcm_positive"].equal(parts.positive)
    assert terms["tcm_negative"].equal(parts.negative)
    assert float(terms["loss"]) == pytest.approx(float(terms["base"] + terms["tcm"]))
    assert float(terms["tcm"]) == pytest.approx(float(0.5 * terms["tcm_positive"] + 2 * terms["tcm_negative"]))
    positives, negatives = 4 * 3, 12 * 11 // 2 - 4 * 3  # four classes of three
    assert float(terms["hard_positives"]) == pytest.approx(int(parts.hard_positives) / positives)
    assert float(terms["hard_negatives"]) == pytest.approx(int(parts.hard_negatives) / negatives)
    assert list(terms) == ["loss", "base", "tcm", "tcm_positive", "tcm_negative", "hard_positives", "hard_negatives"]


def test_shares_run_from_none_to_all_pairs_and_are_0_without_pairs():
    x, y = batch()
    strict = Objective(SmoothAP(), TCM(positive_margin=1.0, negative_margin=-1.0))(x, y)
    assert [float(strict["hard_positives"]), float(strict["hard_negatives"])] == [1, 1]
    one_class = Objective(SmoothAP(), TCM(positive_margin=1.0))(x, torch.zeros_like(y))
    assert [float(one_class["hard_positives"]), float(one_class["hard_negatives"])] == [1, 0]


def test_only_the_loss_has_a_graph():
    x, y = batch()
    terms = Objective(SmoothAP(), TCM())(x.requires_grad_(), y)
    assert [name for name, term in terms.items() if term.requires_grad] == ["loss"]
    assert all(term.dtype == torch.float64 for term in terms.values())


def test_one_similarity_matrix_is_shared(monkeypatch):
    x, y = batch()
    made = []
    original = Pairs.similarity.func
    counting = type(Pairs.similarity)(lambda self: made.append(self) or original(self))
    counting.__set_name__(Pairs, "similarity")
    monkeypatch.setattr(Pairs, "similarity", counting)
    Objective(SmoothAP(), TCM())(x, y)
    assert len(made) == 1


def test_both_parts_train():
    x, y = batch()
    x.requires_grad_()
    (got,) = torch.autograd.grad(Objective(SmoothAP(), TCM())(x, y)["loss"], x)
    parts = [torch.autograd.grad(part(Pairs(x, y)), x)[0] for part in (SmoothAP(), TCM())]
    assert all(part.abs().sum() > 0 for part in parts)
    torch.testing.assert_close(got, sum(parts))


def test_the_baseline_has_the_base_losss_gradient():
    x, y = batch()
    x.requires_grad_()
    none = TCM(positive_weight=0.0, negative_weight=0.0)
    (got,) = torch.autograd.grad(Objective(SmoothAP(), none)(x, y)["loss"], x)
    (expected,) = torch.autograd.grad(SmoothAP()(Pairs(x, y)), x)
    assert got.equal(expected)


def test_rows_without_unit_norm_are_refused():
    x, y = batch()
    with pytest.raises(ValueError, match="a loss needs norm 1"):
        Objective(SmoothAP(), TCM())(2 * x, y)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_term_that_is_not_finite_is_refused_with_all_of_them(value):
    class Broken(torch.nn.Module):
        def forward(self, pairs):
            return pairs.embeddings.sum() * value

    x, y = batch()
    with pytest.raises(UnusableBatch, match="the loss is not finite though every embedding is") as raised:
        Objective(Broken(), TCM())(x, y)
    terms = raised.value.terms
    assert not torch.tensor([terms["loss"], terms["base"]]).isfinite().any()
    assert terms["tcm"] == float(TCM()(Pairs(x, y)))


def test_an_embedding_that_is_not_a_number_is_named_though_the_loss_may_pass_over_it():
    x, y = batch()
    x[3] = torch.nan
    assert TCM()(Pairs(x, y, check=False)).isfinite()
    with pytest.raises(UnusableBatch, match="embedding 3 of the batch has norm nan") as raised:
        Objective(TCM(), TCM())(x, y)
    assert raised.value.terms["loss"] > 0


def test_parameters_of_the_base_loss_are_the_objectives():
    base = torch.nn.Linear(2, 2)
    assert list(Objective(base, TCM()).parameters()) == list(base.parameters())
