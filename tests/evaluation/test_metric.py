from pathlib import Path

import pytest
import reference
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torchmetrics import MetricCollection

from tcm_bench.evaluation.evaluate import evaluate
from tcm_bench.evaluation.metric import Evaluation

DEFAULT = Path(__file__).parents[2] / "conf" / "metrics" / "default.yaml"


def table(items=40):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(items, 4, generator=generator)
    return x, torch.cat([torch.randint(6, (items - 1,), generator=generator), torch.tensor([9])])


def filled(metric):
    x, y = table()
    metric.update(x, y, torch.arange(len(y)))
    return metric


@pytest.mark.parametrize(
    "changed",
    [
        {"axis": "similarity"},
        {"far_bounds": (0.1, 0.4)},
        {"steps": 7},
        {"c": 2.0},
        {"eps": 0.2},
        {"ranking": "pointwise"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_every_setting_reaches_the_computation(changed):
    x, y = table()
    settings = {"far_bounds": (0.05, 0.6), "eps": 0.4} | changed
    before = evaluate(x, y, far_bounds=(0.05, 0.6), eps=0.4).consistency
    expected = evaluate(x, y, **settings).consistency
    metric = filled(Evaluation(**settings))
    values = metric.compute()
    got = [float(values[name]) for name in ("opis", f"opis_{100 * settings['eps']:.0f}pct", "d_min", "d_max")]
    assert got == [expected.opis, expected.eps_opis, expected.d_min, expected.d_max]
    assert got != [before.opis, before.eps_opis, before.d_min, before.d_max]
    (name,) = changed
    assert metric.settings[name] == (list(changed[name]) if name == "far_bounds" else changed[name])


def test_recall_is_that_of_the_oracle_by_name():
    x, y = table()
    values = filled(Evaluation(ks=[1, 2, 8])).compute()
    for k in (1, 2, 8):
        assert float(values[f"recall_at_{k}"]) == reference.recall_at_k(x.tolist(), y.tolist(), k)


def test_a_padded_row_would_have_changed_the_value():
    x, y = torch.eye(3), torch.tensor([0, 0, 1])
    metric = Evaluation()
    metric.update(x[[0, 1, 2, 2]], y[[0, 1, 2, 2]], torch.tensor([0, 1, 2, 2]))
    assert float(metric.compute()["recall_at_1"]) == 2 / 3


def test_values_are_float64_scalars_with_counts():
    _, y = table()
    values = filled(Evaluation()).compute()
    assert all(value.shape == () and value.dtype == torch.float64 for value in values.values())
    sizes = y.unique(return_counts=True)[1]
    positives = int((sizes * (sizes - 1) // 2).sum())
    assert float(values["num_positive_pairs"]) == positives
    assert float(values["num_negative_pairs"]) == 40 * 39 / 2 - positives
    assert float(values["num_classes"]) == len(sizes)
    assert float(values["num_singletons"]) == int((sizes == 1).sum()) == 1


def test_the_last_result_holds_counts_and_curves():
    metric = Evaluation(steps=11)
    assert metric.result is None
    values = filled(metric).compute()
    assert metric.result.consistency.opis == float(values["opis"])
    assert metric.result.consistency.utilities.shape == (6, 11)
    assert int(metric.result.hits.sum()) == round(40 * float(values["recall_at_1"]))


def test_roles_are_those_of_the_datasets_indices():
    x, y = table()
    generator = torch.Generator().manual_seed(1)
    query = torch.rand(40, generator=generator) < 0.5
    order = torch.randperm(40, generator=generator)
    metric = Evaluation(far_bounds=(0.05, 0.6))
    metric.query, metric.gallery = query, ~query
    for rows in order.split(7):
        metric.update(x[rows], y[rows], rows)
    values = metric.compute()
    expected = evaluate(x, y, far_bounds=(0.05, 0.6), query=query, gallery=~query)
    assert float(values["recall_at_1"]) == float(expected.recall[0]) != float(evaluate(x, y).recall[0])
    assert float(values["opis"]) == expected.consistency.opis


@pytest.mark.parametrize(("eps", "name"), [(0.1, "opis_10pct"), (0.25, "opis_25pct"), (0.125, "opis_12_5pct")])
def test_the_name_says_which_share_is_worst(eps, name):
    assert name in filled(Evaluation(eps=eps)).compute()
    assert name.isidentifier()


def test_true_accept_rates_are_named_by_their_false_ones():
    x, y = table()
    values = filled(Evaluation(far_levels=[0.005, 0.1])).compute()
    expected = evaluate(x, y, far_levels=(0.005, 0.1)).tpr_at_far
    assert {"tpr_at_far_0_5pct": expected[0.005], "tpr_at_far_10pct": expected[0.1]}.items() <= {
        name: float(value) for name, value in values.items()
    }.items()


def test_the_default_config_builds_and_says_every_setting():
    config = OmegaConf.load(DEFAULT)
    collection = MetricCollection({name: instantiate(metric, _convert_="all") for name, metric in config.items()})
    values = filled(collection).compute()
    names = {f"recall_at_{k}" for k in (1, 2, 4, 8)} | {"opis", "opis_10pct", "tpr_at_far_1pct", "d_min", "d_max"}
    assert names <= set(values)
    written = OmegaConf.to_container(config.evaluation)
    metric = collection["evaluation"]
    everything = metric.settings | {name: list(metric.options[name]) for name in ("ks", "far_levels")}
    assert everything == {name: value for name, value in written.items() if name != "_target_"}
    assert metric.settings == Evaluation().settings
