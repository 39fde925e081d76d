import inspect
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import reference
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torchmetrics import MetricCollection

from tcm_bench.evaluation.evaluate import evaluate
from tcm_bench.evaluation.metric import EvaluationMetric
from tcm_bench.evaluation.settings import Settings

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
        {"num_thresholds": 7},
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
    metric = filled(EvaluationMetric(**settings))
    values = metric.compute()
    found = metric.result.consistency
    got = [float(values[name]) for name in ("opis", f"opis_{100 * settings['eps']:.0f}pct")]
    got += [found.threshold_low, found.threshold_high]
    assert got == [expected.opis, expected.eps_opis, expected.threshold_low, expected.threshold_high]
    assert got != [before.opis, before.eps_opis, before.threshold_low, before.threshold_high]
    (name,) = changed
    assert getattr(metric.settings, name) == changed[name]


def test_recall_is_that_of_the_oracle_by_name():
    x, y = table()
    values = filled(EvaluationMetric(ks=[1, 2, 8])).compute()
    for k in (1, 2, 8):
        assert float(values[f"recall_at_{k}"]) == reference.recall_at_k(x.tolist(), y.tolist(), k)


def test_a_padded_row_would_have_changed_the_value():
    x, y = torch.eye(3), torch.tensor([0, 0, 1])
    metric = EvaluationMetric()
    metric.update(x[[0, 1, 2, 2]], y[[0, 1, 2, 2]], torch.tensor([0, 1, 2, 2]))
    assert float(metric.compute()["recall_at_1"]) == 2 / 3


def test_values_are_float64_scalars_and_counts_stand_beside_them():
    _, y = table()
    metric = filled(EvaluationMetric())
    values = metric.compute()
    assert all(value.shape == () and value.dtype == torch.float64 for value in values.values())
    sizes = y.unique(return_counts=True)[1]
    positives = int((sizes * (sizes - 1) // 2).sum())
    assert metric.result.counts()["positive_pairs"] == positives
    assert metric.result.counts()["negative_pairs"] == 40 * 39 / 2 - positives
    assert metric.result.counts()["classes"] == len(sizes)
    assert metric.result.counts()["singletons"] == int((sizes == 1).sum()) == 1


def test_the_last_result_holds_counts_and_curves():
    metric = EvaluationMetric(ks=(1,), num_thresholds=11)
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
    metric = EvaluationMetric(far_bounds=(0.05, 0.6))
    metric.query, metric.gallery = query, ~query
    for rows in order.split(7):
        metric.update(x[rows], y[rows], rows)
    values = metric.compute()
    expected = evaluate(x, y, far_bounds=(0.05, 0.6), query=query, gallery=~query)
    assert float(values["recall_at_1"]) == float(expected.recall[0]) != float(evaluate(x, y).recall[0])
    assert float(values["opis"]) == expected.consistency.opis


@pytest.mark.parametrize(("eps", "name"), [(0.1, "opis_10pct"), (0.25, "opis_25pct"), (0.125, "opis_12_5pct")])
def test_the_name_says_which_share_is_worst(eps, name):
    assert name in filled(EvaluationMetric(eps=eps)).compute()
    assert name.isidentifier()


def test_true_accept_rates_are_named_by_their_false_ones():
    x, y = table()
    values = filled(EvaluationMetric(far_levels=[0.005, 0.1])).compute()
    expected = evaluate(x, y, far_levels=(0.005, 0.1)).tar_at_far
    assert {"tar_at_far_0_5pct": expected[0.005], "tar_at_far_10pct": expected[0.1]}.items() <= {
        name: float(value) for name, value in values.items()
    }.items()


def test_the_default_config_builds_and_says_every_setting():
    config = OmegaConf.load(DEFAULT)
    collection = MetricCollection({name: instantiate(metric, _convert_="all") for name, metric in config.items()})
    values = filled(collection).compute()
    assert {*(f"recall_at_{k}" for k in (1, 2, 4, 8)), "opis", "opis_10pct", "tar_at_far_1pct"} <= set(values)
    written = OmegaConf.to_container(config.evaluation, resolve=True)
    settings = collection["evaluation"].settings
    everything = json.loads(json.dumps(asdict(settings)))  # tuples as lists
    assert everything == {name: value for name, value in written.items() if name != "_target_"}
    assert settings.recorded() == EvaluationMetric().settings.recorded()


def test_it_takes_what_the_settings_take_and_nothing_else():
    with pytest.raises(TypeError, match="num_threshold"):
        EvaluationMetric(num_threshold=5)
    assert inspect.signature(EvaluationMetric).parameters == inspect.signature(Settings).parameters
