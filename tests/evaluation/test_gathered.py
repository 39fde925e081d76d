import json
import pickle
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchmetrics import MetricCollection

from tcm_bench.evaluation.evaluate import evaluate
from tcm_bench.evaluation.metric import EmbeddingMetric, EvaluationMetric


class Table(EmbeddingMetric):
    """Exposes what a subclass receives."""

    def evaluate(self, embeddings, labels, query=None, gallery=None):
        self.seen = embeddings, labels
        return {"rows": torch.tensor(len(labels))}


def table(items=31, dim=4, classes=5):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(items, dim, generator=generator), torch.randint(classes, (items,), generator=generator)


def filled(metric, order, batch=7):
    x, y = table()
    for rows in torch.tensor(order).split(batch):
        metric.update(x[rows], y[rows], rows)
    return metric


@pytest.mark.parametrize("order", [list(range(31)), list(range(30, -1, -1)), [*range(31), 3, 3, 0]])
def test_each_row_is_seen_once_in_the_order_of_its_index(order):
    x, y = table()
    metric = filled(Table(), order)
    assert int(metric.compute()["rows"]) == 31
    assert metric.seen[0].equal(x)
    assert metric.seen[1].equal(y)


def test_one_index_with_two_labels_is_refused():
    metric = Table()
    metric.update(torch.eye(3), torch.tensor([0, 1, 2]), torch.tensor([4, 5, 4]))
    with pytest.raises(ValueError, match="index 4 came with two labels"):
        metric.compute()


def test_half_types_become_single_precision():
    metric = Table()
    metric.update(torch.eye(3, dtype=torch.bfloat16), torch.arange(3), torch.arange(3))
    metric.compute()
    assert metric.seen[0].dtype == torch.float32


def test_float64_rows_are_not_rounded():
    metric, x = Table(), torch.eye(3, dtype=torch.float64) / 3
    metric.update(x, torch.arange(3), torch.arange(3))
    metric.compute()
    assert metric.seen[0].equal(x)


def test_rows_keep_no_graph():
    metric = Table()
    metric.update(torch.eye(3).requires_grad_(), torch.arange(3), torch.arange(3))
    assert not metric.embeddings[0].requires_grad


def test_reset_forgets_the_rows():
    metric = filled(Table(), range(31))
    metric.reset()
    metric.update(torch.eye(3), torch.arange(3), torch.arange(3))
    assert int(metric.compute()["rows"]) == 3


def test_a_collection_shares_one_table_and_keeps_the_names():
    collection = MetricCollection({"near": EvaluationMetric(), "table": Table()}, prefix="test/")
    filled(collection, range(20))
    filled(collection, range(20, 31))
    values = collection.compute()
    assert {"test/recall_at_1", "test/opis", "test/opis_10pct"} <= set(values)
    groups = [sorted(group) for group in collection.compute_groups.values()]
    assert groups == [["near", "table"]]
    x, y = table()
    assert float(values["test/opis"]) == evaluate(x, y).consistency.opis
    clone = collection.clone(prefix="val/")
    clone.reset()
    assert "val/opis" in filled(clone, range(31)).compute()


def test_metrics_can_be_pickled_and_hold_no_state_dict():
    metric = filled(EvaluationMetric(further_far_bounds=[]), range(31))
    assert metric.state_dict() == {}
    copy = pickle.loads(pickle.dumps(metric))
    values = metric.compute()
    assert {name: float(value) for name, value in copy.compute().items()} == pytest.approx(
        {name: float(value) for name, value in values.items()}, abs=0, nan_ok=True
    )


def test_two_ranks_with_a_padded_row_equal_one(tmp_path):
    x, y = table()
    torch.save((x, y), tmp_path / "table.pt")
    script = Path(__file__).parent / "two_ranks.py"
    shared = str(tmp_path / "meet"), str(tmp_path / "table.pt")
    with subprocess.Popen([sys.executable, str(script), *shared], stdout=subprocess.PIPE, text=True) as other:
        here = runpy.run_path(str(script))["main"](0, *shared)
        there = json.loads(other.communicate(timeout=120)[0])
    expected = {
        name: float(value)
        for metric in (EvaluationMetric(ks=[1, 2], far_bounds=(0.05, 0.5), further_far_bounds=[(0.01, 0.05)]),)
        for name, value in filled(metric, range(31)).compute().items()
    }
    assert here == pytest.approx(expected, abs=0, nan_ok=True)
    assert there == pytest.approx(expected, abs=0, nan_ok=True)
