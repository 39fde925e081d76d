"""How much of OPIS is noise where all classes share what their images differ by, as kanji and Hangul share typefaces.

    python train.py -m +sweep=mini
    python scripts/typefaces.py

A run's own noise floor takes the images of a class for drawn apart from those of the others. Where image number i of
every class has the same typeface, what a typeface does to all classes spreads none of them, and is taken off too much.
Here both halves of a split have the same typefaces for all classes; OPIS from two halves, each of which has its own
noise, is free of it, up to what half the images cost. Likewise with halves drawn for each class, which should come to
the run's own floor. Printed for the baselines of the miniature, as shares of OPIS.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tcm_bench.evaluation.threshold import operating_curves, utility
from tcm_bench.results import ledger
from tcm_bench.results.labels import is_base
from tcm_bench.runs.naming import PROJECT_ROOT

OUTPUTS = PROJECT_ROOT / "outputs"
SPLITS, THRESHOLDS = 6, 101


def utilities(embeddings: Tensor, labels: Tensor, thresholds: Tensor) -> Tensor:
    """Curve of each class."""
    curves = operating_curves(embeddings, labels, thresholds)
    return utility(curves.sensitivity, curves.specificity)


def shared(one: Tensor, other: Tensor, thresholds: Tensor) -> float:
    """What two sets of curves have in common of the spread of the classes: OPIS, if they are the same."""
    product = ((one - one.mean(dim=0)) * (other - other.mean(dim=0))).mean(dim=0)
    return float(torch.trapezoid(product, thresholds) / (thresholds[-1] - thresholds[0]))


def halves(labels: Tensor, generator: np.random.Generator, *, in_common: bool) -> Tensor:
    """One of two halves of the images of each class: the same numbers for all classes, or others for each."""
    sizes = labels.bincount().tolist()
    drawn = generator.permutation(max(sizes))
    orders = [drawn[drawn < size] if in_common else generator.permutation(size) for size in sizes]
    return torch.from_numpy(np.concatenate([order < len(order) // 2 for order in orders]))


def floor(embeddings: Tensor, labels: Tensor, thresholds: Tensor, split: Callable[[], Tensor]) -> tuple[float, float]:
    """Share of OPIS that is noise, and its standard error over splits."""
    whole = utilities(embeddings, labels, thresholds)
    found = []
    for half in (split() for _ in range(SPLITS)):
        parts = (utilities(embeddings[side], labels[side], thresholds) for side in (half, ~half))
        found.append(shared(*parts, thresholds))
    noise = 1 - np.array(found) / shared(whole, whole, thresholds)
    return float(noise.mean()), float(noise.std(ddof=1)) / math.sqrt(SPLITS)


def main() -> None:
    """Print a row for each data and backbone."""
    print("| data | backbone | the run's own | halves of each class | halves with typefaces in common |")
    print("| --- | --- | ---: | ---: | ---: |")
    for run in ledger.read_sweep(OUTPUTS / ledger.SWEEPS / "mini.json").runs:
        folder = OUTPUTS / "runs" / run.run_id
        row = ledger.read_result(folder)
        if row is None or not is_base(run) or run.choices["seed"] != 0 or run.choices["loss"] != "smooth_ap":
            continue
        stored = load_file(folder / ledger.EMBEDDINGS)
        order = stored["indices"].argsort()
        embeddings, labels = stored["embeddings"][order], stored["labels"][order].unique(return_inverse=True)[1]
        ends = row.threshold["threshold_low"], row.threshold["threshold_high"]
        thresholds = torch.linspace(*ends, THRESHOLDS, dtype=torch.float64)
        generator = np.random.default_rng(0)
        cells = [f"{row.metrics['noise_floor']:.0%}"]
        for in_common in (False, True):
            split = lambda common=in_common: halves(labels, generator, in_common=common)  # noqa: B023, E731
            noise, error = floor(embeddings, labels, thresholds, split)
            cells.append(f"{noise:.0%} ± {error:.0%}")
        print(f"| {run.choices['data']} | {run.choices['backbone']} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
