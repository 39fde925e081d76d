"""A Hydra application whose jobs do nothing but write down where they ran: what a launcher does, without training.

    python tests/no_op_app.py OUT LAUNCHER WORDS...

Job `i` writes OUT/i.json, and fails, or dies, if `fail` or `die` names it. Those behind these wait until they have
written theirs, so that on a busy machine, too, there are jobs after a failure.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).parents[1] / "conf" / "hydra" / "launcher"
LAUNCHERS = {
    "local": {"_target_": "hydra_plugins.local_processes.LocalProcesses", "n_jobs": 2, "accelerator": "gpu"},
    "slurm": {
        **dict(OmegaConf.to_container(OmegaConf.load(CONF / "slurm.yaml"))),
        "job_name": "no_op",
        "cpus_per_task": 1,
    },
}


def job(cfg: DictConfig) -> None:
    """Write down who runs it."""
    ending = [number for number in (cfg.fail, cfg.die) if number is not None]
    while ending and cfg.i > max(ending) and not all(Path(cfg.out, f"{number}.json").exists() for number in ending):
        time.sleep(0.02)
    told = {
        "pid": os.getpid(),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "cores": sorted(os.sched_getaffinity(0)),
        "before": sorted(path.stem for path in Path(cfg.out).glob("*.json")),
    }
    with Path(cfg.out, f"{cfg.i}.json").open("x", encoding="utf-8") as file:  # a second time is an error
        json.dump(told, file)
    if cfg.i == cfg.die:
        os.kill(os.getpid(), signal.SIGKILL)
    if cfg.i == cfg.fail:
        raise ValueError("as it was told")


def main() -> None:
    """Register the launcher and run."""
    out, launcher = sys.argv[1:3]
    sys.argv[1:] = [*sys.argv[3:], f"out={out}", "-m"]
    store = ConfigStore.instance()
    store.store("chosen", LAUNCHERS[launcher], group="hydra/launcher", provider="tests")
    sweep = {"sweep": {"dir": out, "subdir": "jobs/${i}"}, "output_subdir": None}
    quiet = [{"override hydra/launcher": "chosen"}, {"override hydra/job_logging": "disabled"},
             {"override hydra/hydra_logging": "disabled"}]  # fmt: skip
    fields = {"i": 0, "out": "", "fail": None, "die": None, "paths": {"results_dir": "${out}"}}
    store.store("config", {"defaults": ["_self_", *quiet], **fields, "hydra": sweep})
    hydra.main(config_path=None, config_name="config", version_base="1.3")(job)()


if __name__ == "__main__":
    main()
