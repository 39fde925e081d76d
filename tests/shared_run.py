"""Two processes of a run as torchrun starts them, three runs in turn; one import of the libraries serves them all.

Prints the row of each run: of one that ends, of the same done again, of one that is stopped by Ctrl-C, and of one that
a scheduler's notice to its second process stops.
"""

import importlib
import os
import signal
import sys
import time
from pathlib import Path

import torch
from forked_ranks import forked
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from tcm_bench.process import NOTICE, PREEMPTED
from tcm_bench.runs.naming import PROJECT_ROOT, choices
from tcm_bench.runs.run import execute

ENDLESS = ["trainer.max_epochs=100000"]
LONG = ["trainer.max_epochs=30"]


def run(words: list[str]) -> None:
    NOTICE.listen()
    execute(composed(words), choices(composed(words, return_hydra_config=True).hydra, 0))


def composed(words: list[str], **options: bool) -> DictConfig:
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        return compose("config", words, **options)


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    importlib.import_module("tcm_bench.runs.experiment")  # here, so that the processes need not
    for more in ([], ["force=true"], ENDLESS, LONG):
        children = forked(2, lambda _, words=[*words, *more]: run(words))
        run_dir = Path(composed([*words, *more]).run_dir)
        stopped = {id(ENDLESS): (signal.SIGINT, children), id(LONG): (signal.SIGTERM, children[1:])}.get(id(more))
        if stopped:
            until = time.monotonic() + 100
            while not (run_dir / "history.csv").exists() and time.monotonic() < until:
                time.sleep(0.02)
            for child in stopped[1]:
                os.kill(child, stopped[0])
        endings = {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}
        if endings != {PREEMPTED if more is LONG else 0}:
            sys.exit(f"ended with {endings}")
        sys.stdout.write((run_dir / "result.json").read_text().replace("\n", "") + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
