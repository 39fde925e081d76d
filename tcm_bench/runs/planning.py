"""What a sweep would take, before it is started: jobs, time, disk, memory, and what is missing for it."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig
from pydantic import BaseModel

from tcm_bench.results import ledger
from tcm_bench.results.standing import standing
from tcm_bench.runs.backbones import CONF, check_sweep, decisive_key
from tcm_bench.runs.build import ConfigurationError, build, check_targets
from tcm_bench.runs.checks import absent_data
from tcm_bench.runs.errors import explain
from tcm_bench.runs.naming import CONFIG_NAME
from tcm_bench.runs.run import take_over_joblib
from tcm_bench.runs.sweep import compose_jobs, own_name, parallel, runs_of


class PlannedRun(BaseModel):
    """One job of a sweep that is not started yet, or is.

    Attributes:
        run_id: Its name.
        choices: What it is.
        state: Where it stands, see `ledger.State`.
        hours: Of one GPU, or of a process without one, that it is expected to take; None if nobody knows.
        source: Where that is from: `measured` in runs that differ in seed and TCM alone, or `stated` by its recipe.
    """

    run_id: str
    choices: dict[str, str | int]
    state: str
    hours: float | None = None
    source: str = "not known"


class SweepPlan(BaseModel):
    """What a sweep would take.

    Attributes:
        name: Of the sweep.
        jobs: All there are; `finished` of them are done.
        gpu_hours: That the others are expected to take, of one GPU or of a process without one.
        wall_hours: Of `parallel` at a time.
        disk_gb: Of what the runs that are not finished will keep, as their recipes state or as those here do that are.
        memory_gb: Of a GPU, the most that a job states to need; None if none does.
        not_known: Jobs of whose time nothing is known, and which are in none of these sums.
        missing: By kind (`data`, `weights`, `targets`), in sentences.
        runs: Every job.
    """

    name: str
    jobs: int
    finished: int
    parallel: int
    gpu_hours: float
    wall_hours: float
    disk_gb: float
    memory_gb: float | None
    not_known: int
    missing: dict[str, list[str]]
    runs: list[PlannedRun]


def sweep_plan(sweep: str, words: Sequence[str] = (), jobs_at_a_time: int | None = None) -> SweepPlan:
    """What a sweep of `conf/sweep` would take with these further words; nothing is started.

    Args:
        sweep: Its name.
        words: What `python train.py -m +sweep=NAME` would be given beside it.
        jobs_at_a_time: Jobs that run side by side; None: as many as the configuration says.

    Raises:
        ConfigurationError: If there is no such sweep, or a word is refused as `train.py` would.
    """
    check_sweep(sweep)
    take_over_joblib()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            loader = GlobalHydra.instance().config_loader()
            asked = [f"+sweep={sweep}", *words]
            whole = loader.load_configuration(CONFIG_NAME, asked, run_mode=RunMode.MULTIRUN)
            whole.hydra.runtime.output_dir = str(whole.paths.output_dir)  # which Hydra sets when it runs
            jobs = compose_jobs(whole)
        except Exception as error:
            if sentence := explain(error):
                raise ConfigurationError(sentence) from error
            raise
        runs = runs_of(jobs)
        output_dir = Path(jobs[0].paths.results_dir)
        hours = _Hours(output_dir)
        found = [
            PlannedRun(
                run_id=run.run_id,
                choices=run.choices,
                state=standing(output_dir / "runs" / run.run_id).state,
                **hours.of(run, job.cost.gpu_hours),
            )
            for run, job in zip(runs, jobs, strict=True)
        ]
        waiting = [n for n, one in enumerate(found) if one.state != "finished"]
        at_once = jobs_at_a_time or min(parallel(jobs[0].hydra.launcher), max(len(waiting), 1))
        usual_gb = _mean_gb(output_dir)
        gpu_hours = sum(found[n].hours or 0.0 for n in waiting)
        return SweepPlan(
            name=jobs[0].sweep_name or own_name(runs),
            jobs=len(jobs),
            finished=len(jobs) - len(waiting),
            parallel=at_once,
            gpu_hours=gpu_hours,
            wall_hours=gpu_hours / at_once,
            disk_gb=sum(usual_gb if jobs[n].cost.disk_gb is None else jobs[n].cost.disk_gb for n in waiting),
            memory_gb=max((jobs[n].cost.memory_gb for n in waiting if jobs[n].cost.memory_gb), default=None),
            not_known=sum(found[n].hours is None for n in waiting),
            missing=_missing([jobs[n] for n in waiting]),
            runs=found,
        )


class _Hours:
    """What runs took that are finished, for those that are like them."""

    def __init__(self, output_dir: Path) -> None:
        self.walls: dict[str, list[float]] = {}
        for row in ledger.results_of(ledger.run_dirs(output_dir))[0]:
            if row.status == "finished" and row.comparison_id:
                self.walls.setdefault(row.comparison_id, []).append(row.wall_s)

    def of(self, run: ledger.Run, stated: float | None) -> dict[str, Any]:
        """`hours` and `source` of a run that its recipe states to take so long."""
        if walls := self.walls.get(run.comparison_id):
            return {"hours": statistics.median(walls) / 3600, "source": "measured"}
        return {"hours": stated, "source": "stated"} if stated is not None else {}


def _mean_gb(output_dir: Path) -> float:
    """What a run that has ended keeps here, in the mean of up to 100 of them; 0 if there is none."""
    folders = [file.parent for file in (output_dir / "runs").glob(f"*/{ledger.RESULT}")][:100]
    sizes = [sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in folders]
    return statistics.mean(sizes) / 1e9 if sizes else 0.0


def _missing(jobs: Sequence[DictConfig]) -> dict[str, list[str]]:
    """What the jobs need and cannot have, each once."""
    found: dict[str, dict[str, None]] = {"data": {}, "weights": {}, "targets": {}}
    seen: set[str] = set()
    for job in jobs:
        if sentence := absent_data(job):
            found["data"][sentence] = None
        try:
            check_targets(job)
        except ConfigurationError as error:
            found["targets"][str(error)] = None
            continue
        backbone = job.model.backbone
        if not backbone or (key := decisive_key(backbone)) in seen:
            continue
        seen.add(key)
        supply = build(backbone.weights, list(job.trusted_packages)).supply(backbone.architecture)
        if supply.absent:
            found["weights"][f"{supply.name} is not here: {supply.by_hand}"] = None
    return {kind: list(sentences) for kind, sentences in found.items()}
