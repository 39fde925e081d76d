"""How long the class-balanced sampler takes for a batch of iNaturalist's size: 5,690 classes, 325,846 images.

    python tests/benchmarks/sampler.py

The first batch of an epoch stands apart: it also lays out the epoch's cards.
"""

import time
from collections.abc import Iterator

import numpy as np

from tcm_bench.data.sampler import ClassBalancedSampler

CLASSES, IMAGES = 5690, 325_846
BATCHES = ((1000, 4), (96, 4), (64, 4))


def labels(exponent: float | None) -> np.ndarray:
    """Classes of the images, shuffled; sizes with a tail that is the longer the smaller the exponent, or equal."""
    rng = np.random.default_rng(0)
    share = np.ones(CLASSES) if exponent is None else rng.pareto(exponent, CLASSES) + 0.2
    return rng.permutation(np.repeat(np.arange(CLASSES), np.maximum(2, share / share.sum() * IMAGES).astype(int)))


def seconds(sampler: ClassBalancedSampler) -> Iterator[float]:
    """CPU time of each batch of an epoch."""
    batches = iter(sampler)
    for _ in range(len(sampler)):
        start = time.process_time()
        next(batches)
        yield time.process_time() - start


def main() -> None:
    print(f"{'class sizes':12} {'batch':>9} {'first':>9} {'median':>9} {'mean':>9} {'slowest':>9}   (ms, CPU time)")
    for name, exponent in (("long-tailed", 1.2), ("equal", None)):
        items = labels(exponent)
        for classes, images in BATCHES:
            sampler = ClassBalancedSampler(items, classes_per_batch=classes, images_per_class=images)
            epochs = []
            for epoch in range(5):
                sampler.set_epoch(epoch)
                epochs.append(1e3 * np.array(list(seconds(sampler))))
            found = np.concatenate(epochs)
            first = np.median([epoch[0] for epoch in epochs])
            figures = (first, np.median(found), found.mean(), found.max())
            print(f"{name:12} {f'{classes} x {images}':>9} " + " ".join(f"{figure:9.3f}" for figure in figures))


if __name__ == "__main__":
    main()
