import reference
import torch

from tcm_bench.metrics.recall import Recall


def test_values_are_those_of_the_oracle_by_name():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, dtype=torch.float64, generator=generator)
    y = torch.randint(4, (20,), generator=generator)
    metric = Recall(ks=[1, 2, 8])
    metric.update(x, y, torch.arange(20))
    expected = {f"recall_at_{k}": reference.recall_at_k(x.tolist(), y.tolist(), k) for k in (1, 2, 8)}
    assert {name: float(value) for name, value in metric.compute().items()} == expected
    assert all(value.shape == () for value in metric.compute().values())


def test_a_padded_row_would_have_changed_the_value():
    x, y = torch.eye(3), torch.tensor([0, 0, 1])
    metric = Recall()
    metric.update(x[[0, 1, 2, 2]], y[[0, 1, 2, 2]], torch.tensor([0, 1, 2, 2]))
    assert float(metric.compute()["recall_at_1"]) == 2 / 3
