"""One of two processes that share a metric's rows; run as a script it is rank 1 and prints its values.

Rank 1's share is padded with a repeat of row 0, as a distributed sampler pads it.
"""

import json
import sys

import torch
import torch.distributed as dist

from tcm_bench.evaluation.metric import EvaluationMetric


def main(rank, rendezvous, table):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    embeddings, labels = torch.load(table, weights_only=True)
    rows = torch.arange(rank, len(labels), 2)
    if rank == 1:
        rows = torch.cat([rows, torch.tensor([0])])
    values = {}
    for metric in (EvaluationMetric(ks=[1, 2], far_bounds=(0.05, 0.5), further_far_bounds=[(0.01, 0.05)]),):
        for part in rows.split(7):
            metric.update(embeddings[part], labels[part], part)
        values |= {name: float(value) for name, value in metric.compute().items()}
    dist.destroy_process_group()
    return values


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(1, *sys.argv[1:])))
