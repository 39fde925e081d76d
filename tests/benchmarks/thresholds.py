"""How often do the intervals of `tcm-bench threshold` hold the threshold of a known population?

    python tests/benchmarks/thresholds.py

One line for each population and wanted rate: coverage, which ought to be 0.95, and the median length of the intervals
over the length that would be right.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
from test_deployment import POPULATIONS, drawn, reliability

TRIALS = 200


def of_a_long_tail(classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sizes are 2 and what is whole of a log-normal number of median 3, whose logarithm has a deviation of 1."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 2 + torch.randn(classes, generator=generator).add(1).exp().long()
    return drawn(sizes, torch.rand(classes, 1, generator=generator) * 0.8 + 0.3, generator)


def main() -> None:
    torch.set_num_threads(1)
    for kind, draw in {**POPULATIONS, "long tail": of_a_long_tail}.items():
        for rate, wanted in (("far", 0.05), ("far", 0.01), ("frr", 0.1)):
            for classes in (40, 100):
                covered, length = reliability(draw, rate, wanted, classes, TRIALS)  # type: ignore[arg-type]
                print(f"{kind:9}  {rate} {wanted:g}, {classes:3d} classes: {covered:.3f}, {length:.2f}", flush=True)


if __name__ == "__main__":
    main()
