from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torchmetrics import MetricCollection

from tcm_bench.functional.threshold import threshold_consistency
from tcm_bench.metrics.threshold_consistency import ThresholdConsistency

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
    before = threshold_consistency(x.double(), y, far_bounds=(0.05, 0.6), eps=0.4)
    expected = threshold_consistency(x.double(), y, **settings)
    metric = filled(ThresholdConsistency(**settings))
    values = metric.compute()
    got = [float(values[name]) for name in ("opis", f"opis_{100 * settings['eps']:.0f}pct", "d_min", "d_max")]
    assert got == [expected.opis, expected.eps_opis, expected.d_min, expected.d_max]
    assert got != [before.opis, before.eps_opis, before.d_min, before.d_max]
    (name,) = changed
    assert metric.settings[name] == (list(changed[name]) if name == "far_bounds" else changed[name])


def test_values_are_float64_scalars_with_counts():
    _, y = table()
    values = filled(ThresholdConsistency()).compute()
    assert all(value.shape == () and value.dtype == torch.float64 for value in values.values())
    sizes = y.unique(return_counts=True)[1]
    positives = int((sizes * (sizes - 1) // 2).sum())
    assert float(values["num_positive_pairs"]) == positives
    assert float(values["num_negative_pairs"]) == 40 * 39 / 2 - positives
    assert float(values["num_classes"]) == int((sizes > 1).sum())
    assert float(values["num_singletons"]) == int((sizes == 1).sum()) == 1


def test_the_last_result_holds_the_curves():
    metric = ThresholdConsistency(steps=11)
    assert metric.result is None
    opis = filled(metric).compute()["opis"]
    assert metric.result.opis == float(opis)
    assert metric.result.utilities.shape == (6, 11)


@pytest.mark.parametrize(("eps", "name"), [(0.1, "opis_10pct"), (0.25, "opis_25pct"), (0.125, "opis_12_5pct")])
def test_the_name_says_which_share_is_worst(eps, name):
    assert name in filled(ThresholdConsistency(eps=eps)).compute()
    assert name.isidentifier()


def test_the_default_config_builds_and_says_every_setting():
    config = OmegaConf.load(DEFAULT)
    collection = MetricCollection({name: instantiate(metric, _convert_="all") for name, metric in config.items()})
    values = filled(collection).compute()
    assert {"recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8", "opis", "opis_10pct", "d_min", "d_max"} <= set(
        values
    )
    written = OmegaConf.to_container(config.threshold)
    del written["_target_"]
    assert collection["threshold"].settings == ThresholdConsistency().settings == written
