"""One of three processes that evaluate sets together; run as a script it writes what it found.

Two of them also form a group of their own.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from brute_force import drawn
from every_kernel import CompiledKernel, LoopsKernel

from tcm_bench.evaluation.counting import scan as pair_scan
from tcm_bench.evaluation.evaluate import evaluate

ITEMS = 110
STORE = pair_scan.LARGEST_STORE


def cases():
    """``(name, store, kind, arguments)``: 7 blocks of rows, which three processes cannot share evenly."""
    items = torch.arange(ITEMS)
    for kind in ("clustered", "ties", "tail", "half"):
        yield kind, STORE, kind, {}
    roles = {"query": items % 3 > 0, "gallery": items % 4 > 0}
    yield "similarity", STORE, "clustered", {"axis": "similarity"}
    yield "roles", STORE, "duplicates", roles
    yield "few blocks", STORE, "random", {"tile": (64, 64)}  # none for the last process
    yield "no room", 0, "random", {}
    yield "two passes", 90, "random", {}
    yield "room in some processes", 90, "ties", {}
    yield "room in the last process", 400, "identical", {"tile": (40, 40)}


def flat(result):
    """Every number of an evaluation."""
    consistency = result.consistency
    numbers = [consistency.opis, consistency.eps_opis, consistency.threshold_low, consistency.threshold_high]
    numbers += [consistency.num_positive_pairs, consistency.num_negative_pairs, *result.tar_at_far.values()]
    tables = (result.recall, result.queries, result.hits, consistency.utilities, *consistency.curves.counts)
    return [torch.tensor(numbers, dtype=torch.float64), *tables]


def evaluations(group):
    found = {}
    for name, pair_scan.LARGEST_STORE, kind, arguments in cases():
        x, y = drawn(kind, ITEMS, 6, 9)
        arguments = {"tile": (17, 32)} | arguments
        result = evaluate(x, y, ks=(1, 3), num_thresholds=9, eps=0.3, far_levels=(0.05, 0.5), group=group, **arguments)
        found[name] = flat(result)
    pair_scan.LARGEST_STORE = STORE
    return found


def main(rank, rendezvous):
    torch.set_num_threads(1)
    processor = (LoopsKernel, CompiledKernel, LoopsKernel)[rank]  # they differ in how they multiply
    pair_scan._kernel_for = lambda device: processor
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=3)
    pair = dist.new_group([0, 1])
    found = {"three": evaluations(dist.group.WORLD)}
    if rank < 2:
        found["two"] = evaluations(pair)
    dist.barrier()
    dist.destroy_process_group()
    return found


if __name__ == "__main__":
    torch.save(main(int(sys.argv[1]), sys.argv[2]), sys.argv[3])
