"""A sweep as a person sees it: checked before it starts, shown while it runs, folded into a table when it ends.

Hydra's launcher runs the jobs. This callback knows all of them beforehand, so it can refuse a sweep that makes no
sense, say how far it is, and leave at once when nothing is left to do.
"""

import atexit
import contextlib
import math
import re
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.live import Live
from rich.text import Text

from tcm_bench.gpus import gpus
from tcm_bench.process import raise_on_ctrl_c
from tcm_bench.results import ledger
from tcm_bench.results.labels import Label, labels
from tcm_bench.runs.build import ConfigurationError, check_targets
from tcm_bench.runs.checks import absent_data, check, num_processes
from tcm_bench.runs.errors import explain
from tcm_bench.runs.naming import choices, plan

EVERY_JOB = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
SEARCH = "hydra_plugins.optuna_search.OptunaSearch"


class SweepCallback(Callback):
    """Hydra's hooks around a multirun; does nothing around a single run.

    Hydra turns what a callback raises into a warning, so a refusal leaves through `sys.exit`.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Compose every job, refuse what cannot work, write down what the sweep consists of, start the display.

        A search decides on its jobs while they run, and announces them itself.
        """
        with _or_leave():
            if (sweeper := config.hydra.sweeper._target_) == SEARCH:
                return
            if sweeper != EVERY_JOB:
                raise ConfigurationError(
                    f"hydra/sweeper with _target_ {sweeper} decides on jobs that nobody can list beforehand; there are "
                    "basic, which runs every one, and optuna"
                )
            jobs = compose_jobs(config)
            refuse_nonsense(jobs)
            runs = runs_of(jobs)
            name = config.sweep_name or own_name(runs)
            if not config.force and all(ledger.state(Path(job.run_dir)) == "finished" for job in jobs):
                output_dir = Path(config.paths.results_dir)
                ledger.write_sweep(output_dir, name, runs, sys.argv[1:])
                console.print(f"all {len(runs)} runs are finished already; force=true runs them again")
                sys.exit(conclude(name, output_dir, runs))
            announce(config, name, jobs, runs)
            expect(jobs, runs)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Stop the display, fold the rows into the comparison table; leave with 1 if any run did not finish."""
        assert _display is not None
        _display.finish()
        name, output_dir = _display.sweep, Path(config.paths.results_dir)
        if not config.hydra.launcher.get("wait", True):
            say(f"`tcm-bench status {name}` shows how far they are, `tcm-bench report {name}` makes the table")
            return
        with _or_leave():
            if config.hydra.sweeper._target_ == SEARCH:
                from tcm_bench.runs.search import conclude_search

                status = conclude_search(name, output_dir, _display.runs, config.hydra.sweeper.tolerance)
            else:
                status = conclude(name, output_dir, _display.runs)
            _name_the_dead(_display)
        if status:
            sys.exit(status)


def announce(
    config: DictConfig, name: str, jobs: Sequence[DictConfig], runs: Sequence[ledger.Run], *, total: int | None = None
) -> None:
    """Write down jobs as the sweep's, beside those that were before, and show them.

    Args:
        config: The sweep's.
        name: Of the sweep.
        jobs: Not announced before, nor refused by `refuse_nonsense`.
        runs: What they are.
        total: Runs of the whole sweep, if more will follow; then runs of the same comparisons that an earlier start
            has listed stay in the list.

    Raises:
        ConfigurationError: If one of them names code that it may not, or that is not there.
    """
    global _display
    for job in jobs:  # which imports torch: seconds that a finished sweep need not pay
        check_targets(job)
    if first := _display is None:
        _display = Display(name, Path(config.paths.results_dir), parallel=parallel(config.hydra.launcher))
        if total is not None:
            comparisons = {run.comparison_id for run in runs}
            _display.earlier = [run for run in _listed(config, name) if run.comparison_id in comparisons]
    _display.add(runs, total)
    listed = {run.run_id: run for run in (*_display.runs, *_display.earlier)}
    ledger.write_sweep(_display.output_dir, name, list(listed.values()), sys.argv[1:])
    if first:
        raise_on_ctrl_c()  # from here on there are a display and processes to put an end to
        _display.start()


def _listed(config: DictConfig, name: str) -> list[ledger.Run]:
    """What an earlier start of a sweep has written down."""
    path = Path(config.paths.results_dir) / ledger.SWEEPS / f"{name}.json"
    return ledger.read_sweep(path).runs if path.exists() else []


def expect(jobs: Sequence[DictConfig], runs: Sequence[ledger.Run]) -> None:
    """Note what is known of the jobs that the launcher is given next, for it to ask by `planned_jobs`.

    Args:
        jobs: In the launcher's order.
        runs: What they are.
    """
    global _planned
    _planned = [
        Planned(
            run.run_id,
            f"{run.comparison_id} {job.seed}",
            job.cost.gpu_hours or 0.0,
            job.cost.memory_gb or 0.0,
            not job.force and ledger.state(Path(job.run_dir)) in ("finished", "running"),
        )
        for run, job in zip(runs, jobs, strict=True)
    ]


def runs_of(jobs: Iterable[DictConfig]) -> list[ledger.Run]:
    """What is known of composed jobs before they start."""
    return [plan(job, choices(job.hydra, job.seed), job.hydra.overrides.task) for job in jobs]


def conclude(name: str, output_dir: Path, runs: list[ledger.Run]) -> int:
    """Print and store the comparison table of a sweep; the exit status is 1 if any run did not finish."""
    from tcm_bench.report.comparison import comparison_table, write_comparison

    rows = list(ledger.results(Path(output_dir) / "runs" / run.run_id for run in runs))
    written = write_comparison(rows, output_dir / "report", name, runs)
    Console().print(comparison_table(rows, runs, width=Console().width))
    console.print(*(f"written: {path}" for path in written), sep="\n")
    return int(sum(row.status in ledger.ENDED_WELL for row in rows) < len(runs))


class Planned(NamedTuple):
    """What is known of a job before it starts.

    Attributes:
        run_id: Its run's name.
        comparison: What it is a part of: a comparison and its seed.
        gpu_hours: That it is stated to take; 0 if nothing is.
        memory_gb: Of a GPU, likewise.
        is_taken: Whether it is done, or another process is at it, so that it need not be started.
    """

    run_id: str
    comparison: str
    gpu_hours: float = 0.0
    memory_gb: float = 0.0
    is_taken: bool = False


def planned_jobs(first: int, count: int) -> list[Planned]:
    """Of so many jobs from this number on what is known, see `expect`; each by itself if nobody has said anything."""
    jobs = _planned[first : first + count]
    return jobs if len(jobs) == count else [Planned(str(number), str(number)) for number in range(count)]


def gpus_for(accelerator: str, jobs: Sequence[Planned]) -> list[str]:
    """The GPUs that jobs may use: those with as much free memory as any of them states to need.

    Args:
        accelerator: Of the machine's settings.
        jobs: All of them.

    Raises:
        ConfigurationError: If there are GPUs and none has.
    """
    found = gpus() if accelerator in ("gpu", "cuda", "auto") else []
    needed = max((job.memory_gb for job in jobs), default=0.0)
    fit = [gpu.uuid for gpu in found if gpu.free_gb >= needed]
    if found and not fit:
        most = max(gpu.free_gb for gpu in found)
        raise ConfigurationError(
            f"a job needs about {needed:g} GB of a GPU (cost.memory_gb) and at most {most:.1f} GB are free here: other "
            "programs hold the rest, or a smaller machine.chunk_size with a cost.memory_gb to match would fit"
        )
    return fit


def say(text: str) -> None:
    """A line for a person, beside the display."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def parallel(launcher: DictConfig) -> int:
    """How many jobs are at work at a time, at most."""
    return int(launcher.get("n_jobs") or launcher.get("array_parallelism") or 1)


def own_name(runs: list[ledger.Run]) -> str:
    """Of a sweep without a name: what varies in it, and a hash of its runs, so that the same command finds its table.

    Args:
        runs: All of the sweep, in any order.
    """
    keys = dict.fromkeys(key for run in runs for key in run.choices)
    varied = [key for key in keys if len({run.choices.get(key) for run in runs}) > 1]
    words = [re.split(r"[./]", key)[-1] for key in varied[:3]]
    return "-".join([*words, ledger.science_hash({"runs": sorted(run.run_id for run in runs)})[:6]])


def _name_the_dead(display: "Display") -> None:
    """Say which runs came to no end: their process was killed, or is another sweep's."""
    unended = [
        (ledger.state(run_dir), f"{run.run_id} ({_name(label)})")
        for run, label, run_dir in zip(display.runs, display.labels, display.run_dirs, strict=True)
    ]
    if elsewhere := [name for state, name in unended if state == "running"]:
        say(
            f"at work in another process: {', '.join(elsewhere)}; `tcm-bench status {display.sweep}` says how far, and "
            "once they have ended the same command makes the whole table"
        )
    if waiting := [name for state, name in unended if state in ("interrupted", "absent")]:
        say(f"not done yet: {', '.join(waiting)}; the same command goes on from there")
    if dead := [name for state, name in unended if state == "stale"]:
        say(
            f"killed in the middle, as the system does when memory runs out: {', '.join(dead)}; "
            "the same command goes on from there"
        )


def _name(label: Label) -> str:
    return f"{label.task} {label.tcm} {label.seed}"


def compose_jobs(config: DictConfig) -> list[DictConfig]:
    """The configuration of every job, through Hydra's own parser and product, so that both agree on what they are."""
    jobs = [compose_job(config, overrides) for overrides in job_overrides(config)]
    if not jobs:
        raise ConfigurationError("this sweep has no job: a glob() that matches nothing, or an empty list of values")
    return jobs


def compose_job(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a sweep's job of these words, checked, while Hydra is initialized."""
    loader = GlobalHydra.instance().config_loader()
    job = loader.load_sweep_config(config, list(overrides))
    check(job, [*overrides, *config.hydra.overrides.hydra], loader)
    job.run_id = job.run_id  # once, see `execute`
    return job


def job_overrides(config: DictConfig) -> list[list[str]]:
    """The words of every job of a sweep, while Hydra is initialized.

    Args:
        config: The sweep's composed configuration, Hydra's own node included.
    """
    batches = BasicSweeper.split_arguments(sweep_words(config), max_batch_size=None)
    return [list(overrides) for batch in batches for overrides in batch]


def sweep_words(config: DictConfig) -> list[Override]:
    """The words of a sweep, those of its file first, while Hydra is initialized."""
    swept = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    # As they were given: what refers to other values is for each job to resolve, whose values are others.
    task = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(task, list)
    return OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides([*swept, *task])


def refuse_nonsense(jobs: Sequence[DictConfig]) -> None:
    """Refuse one job twice, no data, or several processes for a job where no launcher makes a process group for each.

    Raises:
        ConfigurationError: With what was wrong and what would be right.
    """
    (twice, count), *_ = Counter(job.run_id for job in jobs).most_common(1)
    if count > 1:
        raise ConfigurationError(
            f"{count} jobs of this sweep are the same run {twice}: they differ only in values that decide no number"
        )
    if (n_jobs := jobs[0].hydra.launcher.get("n_jobs", 1)) < 1:
        raise ConfigurationError(f"hydra.launcher.n_jobs={n_jobs} must be at least 1; without it, it is machine.jobs")
    for job in jobs:
        count = num_processes(job.machine)
        if count > 1 and not job.hydra.launcher._target_.startswith("hydra_plugins.slurm."):
            raise ConfigurationError(
                f"machine.devices={job.machine.devices} are {count} processes for a run, which in a sweep needs a "
                "launcher that gives each job a process group of its own (hydra/launcher=slurm), or one "
                "command with torchrun or srun for each run; machine.devices=1 runs it here"
            )
    waiting = (job for job in jobs if job.force or ledger.state(Path(job.run_dir)) != "finished")
    if absent := dict.fromkeys(filter(None, map(absent_data, waiting))):
        raise ConfigurationError("; ".join(absent))


class Display(threading.Thread):
    """Reads the run folders once in a while and says how far the sweep is: a live view, or a line for each change."""

    def __init__(self, sweep: str, output_dir: Path, parallel: int) -> None:
        """Show runs below `output_dir`, of which up to `parallel` are at work at a time."""
        super().__init__(daemon=True)
        self.sweep = sweep
        self.output_dir = output_dir
        self.parallel = parallel
        self.total = 0
        self.earlier: list[ledger.Run] = []
        self.runs: list[ledger.Run] = []
        self.labels: list[Label] = []
        self.run_dirs: list[Path] = []
        self.done = threading.Event()
        self.began = time.time()
        atexit.register(self.finish)  # also after Ctrl-C: a live view must give the cursor back

    def add(self, runs: Sequence[ledger.Run], total: int | None) -> None:
        """Show these as well, of so many in all."""
        self.runs = [*self.runs, *runs]
        self.total = len(self.runs) if total is None else total
        self.labels = labels(self.runs)
        self.run_dirs = [self.output_dir / "runs" / run.run_id for run in self.runs]

    def run(self) -> None:
        """Show until `finish` is called."""
        if console.is_terminal:
            with Live(console=console, refresh_per_second=4, transient=True) as live:
                while not self.done.wait(0.5):
                    live.update(self.view())
        else:
            said, spoken = "", -math.inf
            while not self.done.wait(2):
                text = self.headline()
                finished = text.partition(",")[0]
                if finished != said or time.monotonic() - spoken > 60:
                    console.print(text)
                    said, spoken = finished, time.monotonic()

    def finish(self) -> None:
        """Stop showing."""
        self.done.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()

    def headline(self) -> str:
        """Counts of each state and the time left."""
        states = Counter(ledger.state(run_dir) for run_dir in self.run_dirs)
        counts = ", ".join(f"{states[s]} {s}" for s in ("running", "failed", "interrupted", "stale") if states[s])
        total = f"{states['finished'] + states['debug']} of {self.total} runs finished"
        return f"{total}, {counts or '0 running'}, {self.time_left(states)}"

    def time_left(self, states: Counter[ledger.State]) -> str:
        """From the pace of the runs that ended last; the first of a sweep also compute features, later ones do not."""
        ended = sorted(
            (run_dir / ledger.RESULT for run_dir in self.run_dirs if (run_dir / ledger.RESULT).exists()),
            key=lambda path: path.stat().st_mtime,
        )
        recent = [path.parent for path in ended if path.stat().st_mtime > self.began][-2 * self.parallel :]
        if not recent:
            return "time left: not known yet"
        pace = statistics.median(row.wall_s for row in ledger.results(recent))
        remaining = self.total - sum(states[s] for s in ("finished", "debug", "failed"))
        seconds = pace * remaining / self.parallel
        return f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {seconds:.0f} s left"

    def view(self) -> Text:
        """The headline and a line for every run at work."""
        lines = [self.headline()]
        for run_dir, label in zip(self.run_dirs, self.labels, strict=False):  # a search adds some meanwhile
            progress = ledger.read_progress(run_dir)
            if progress and ledger.state(run_dir) == "running":
                how_far = f"{progress.done}/{progress.total}" if progress.total else ""
                since = f"{time.time() - progress.started:.0f} s"
                lines.append(f"  {_name(label)}: {progress.stage} {how_far}, {since}")
        return Text("\n".join(lines))


@contextlib.contextmanager
def _or_leave() -> Iterator[None]:
    """Leave with one sentence where Hydra would turn an error into a warning and go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - of any kind
        sys.stderr.write(f"error: {explain(error) or error or type(error).__name__}\n")
        sys.exit(2)


console = Console(stderr=True)
_planned: list[Planned] = []
_display: Display | None = None  # not on the callback, which Hydra pickles into every worker
