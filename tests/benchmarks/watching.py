"""What it costs a run of the miniature's size to be watched: seconds with each logger, in turn, in one process.

    python tests/benchmarks/watching.py                  five times each
    python tests/benchmarks/watching.py --times 3 --loggers none wandb csv

A head on features of the bundled kanji, the network behind them untrained. W&B is offline. The first run of a logger,
which also imports it, is told apart; a process of a sweep does many.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from composition import composition

from tcm_bench.runs.run import execute

HEAD = ["data=kanji", "model/backbone=resnet_small", "model.freeze=backbone", "machine.threads=1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--loggers", nargs="+", default=["none", "csv", "wandb"])
    options = parser.parse_args()
    os.environ["WANDB_MODE"] = "offline"
    seconds: dict[str, list[float]] = {logger: [] for logger in options.loggers}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WANDB_DATA_DIR"] = folder
        words = [*HEAD, f"paths.output_dir={folder}", "machine.progress=false", "machine.accelerator=cpu", "force=true"]
        execute(*composition(*words, "logger=none"))  # which computes the features
        for _ in range(options.times + 1):
            for logger in options.loggers:
                cfg, chosen = composition(*words, f"logger={logger}")
                begun = time.perf_counter()
                execute(cfg, chosen)
                seconds[logger].append(time.perf_counter() - begun)
    for logger, (first, *others) in seconds.items():
        spread = f"{min(others):.2f} to {max(others):.2f}"
        print(f"{logger}: median {statistics.median(others):.2f} s a run ({spread}), the first {first:.2f} s")


if __name__ == "__main__":
    main()
