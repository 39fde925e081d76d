"""Does the corrected OPIS recover the truth? 100 simulations of classes whose true curves are known.

    python tests/benchmarks/noise.py

One line for each number of images a class: the plain and the corrected OPIS as shares of the truth.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
from test_noise import simulated

POPULATIONS, DRAWS = 20, 5
CLASSES = {5: 200, 10: 200, 20: 100, 60: 60}


def main() -> None:
    torch.set_num_threads(1)
    for width in (0.16, 0.25):
        for images, classes in CLASSES.items():
            plain, corrected, true = simulated(images, width, POPULATIONS, DRAWS, classes)
            print(
                f"width {width}, {images:2d} images: plain {plain / true:.3f}, corrected {corrected / true:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
