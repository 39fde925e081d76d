import torch

from tcm_bench.evaluation.metric import PrecisionAtRMetric
from tcm_bench.evaluation.retrieval import precision_at_r


def test_rows_of_batches_give_the_values_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 4, generator=generator), torch.randint(5, (40,), generator=generator)
    metric = PrecisionAtRMetric()
    for rows in torch.randperm(40, generator=generator).split(7):
        metric.update(x[rows], y[rows], rows)
    expected = precision_at_r(x, y)
    assert metric.compute() == {"map_at_r": expected.map_at_r, "r_precision": expected.r_precision}
    metric.query, metric.gallery = y < 3, torch.arange(40) > 9
    metric._computed = None
    expected = precision_at_r(x, y, query=metric.query, gallery=metric.gallery)
    assert metric.compute()["map_at_r"] == expected.map_at_r
