"""A search for settings of TCM, which decides on its runs while they run: `hydra/sweeper=optuna`.

By the rule that `report/choice.py` states: the least OPIS on training classes that are held out, of R@1 there at most a
tolerance below the baseline's. A trial is a setting; its runs are those of the seeds, and the baseline is trained once
for each seed. Nothing but the runs is stored: a search that was stopped asks for the same settings in the same order,
and those that have finished are not trained again. So a trial is scored only when its runs have come to their end.
"""

import math
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from tcm_bench.report.choice import OPIS, RECALL, Choice, choices, write_choices
from tcm_bench.report.scores import score
from tcm_bench.results import ledger
from tcm_bench.results.labels import labels
from tcm_bench.runs.build import ConfigurationError
from tcm_bench.runs.sweep import announce, compose_job, expect, refuse_nonsense, runs_of, say, sweep_words

if TYPE_CHECKING:
    import optuna

POLL_S = 1


class Dimension(NamedTuple):
    """What is searched over for one key.

    Attributes:
        distribution: Of the values, or of the place of one in `words`.
        words: The values that can be chosen, if they are some; None if they are an interval.
    """

    distribution: "optuna.distributions.BaseDistribution"
    words: Sequence[str] | None

    def word(self, suggested: Any) -> str:
        """A value as it stands in a command: of an interval, three digits that people can read and repeat."""
        if self.words is not None:
            return self.words[suggested]
        return str(suggested) if isinstance(suggested, int) else f"{suggested:.3g}"


class Space(NamedTuple):
    """What the words of a search mean.

    Attributes:
        fixed: Words that all runs share.
        seeds: Words that tell a setting's runs apart.
        dimensions: By their keys, all of TCM's settings.
    """

    fixed: Sequence[str]
    seeds: Sequence[Sequence[str]]
    dimensions: Mapping[str, Dimension]


def space(words: Sequence[Override]) -> Space:
    """The space that the words of a command span; of a key that is given twice the last counts.

    Raises:
        ConfigurationError: If nothing is searched, or what is searched is no setting of TCM, or no range.
    """
    fixed: dict[str, str] = {}
    dimensions: dict[str, Dimension] = {}
    seeds: list[list[str]] = [[]]
    for override in words:
        key = override.key_or_group
        fixed.pop(key, None)
        dimensions.pop(key, None)
        if not override.is_sweep_override():
            assert override.input_line is not None
            fixed[key] = override.input_line
        elif getattr(override.value(), "shuffle", False):
            raise ConfigurationError(f"{override.input_line}: shuffled, it would be another search each time")
        elif key == "seed" and not override.is_interval_sweep():
            seeds = [[f"seed={seed}"] for seed in override.sweep_string_iterator()]
        elif key.startswith("tcm."):
            dimensions[key] = _dimension(override)
        else:
            raise ConfigurationError(
                f"{override.input_line}: hydra/sweeper=optuna searches settings of TCM; give one value of {key}, and "
                "search once for each"
            )
    if not dimensions:
        raise ConfigurationError(
            "hydra/sweeper=optuna searches settings of TCM: give one a range, 'tcm.negative_margin=interval(0.3,0.8)'"
        )
    if fixed.get("tcm", "").endswith("=none"):
        raise ConfigurationError("hydra/sweeper=optuna trains the baseline beside TCM by itself: leave tcm=none out")
    return Space(list(fixed.values()), seeds, dimensions)


def _dimension(override: Override) -> Dimension:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    try:
        if isinstance(value, IntervalSweep):
            low, high, is_log = value.start, value.end, "log" in value.tags
            if isinstance(low, int) and isinstance(high, int):
                return Dimension(IntDistribution(low, high, log=is_log), None)
            assert low is not None
            assert high is not None
            return Dimension(FloatDistribution(low, high, log=is_log), None)
        words = list(override.sweep_string_iterator())
        if override.is_range_sweep():  # whose values have an order
            return Dimension(IntDistribution(0, len(words) - 1), words)
        return Dimension(CategoricalDistribution(tuple(range(len(words)))), words)
    except ValueError as error:
        raise ConfigurationError(f"{override.input_line}: {error}") from error


def search(
    config: DictConfig,
    launcher: Launcher,
    *,
    n_trials: int,
    at_once: int,
    n_startup_trials: int,
    seed: int,
    tolerance: float,
) -> None:
    """Train settings that Optuna's TPE asks for, and the baseline.

    Args:
        config: The sweep's.
        launcher: Runs jobs.
        n_trials: Settings to try.
        at_once: Settings that are decided on together.
        n_startup_trials: Settings are drawn by chance until so many have a score.
        seed: Of the search.
        tolerance: By how much R@1 on held-out classes may lie below the baseline's; a fraction.

    Raises:
        ConfigurationError: If the baseline cannot be composed, or none of the settings.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigurationError(
            "hydra/sweeper=optuna needs Optuna: `make setup EXTRAS=cpu,dev,search` installs it"
        ) from error
    for key, value, least in (
        ("n_trials", n_trials, 1),
        ("at_once", at_once, 1),
        ("n_startup_trials", n_startup_trials, 1),
        ("seed", seed, 0),
    ):
        if type(value) is not int or value < least:
            raise ConfigurationError(f"hydra.sweeper.{key} must be a whole number of at least {least}, got {value!r}")
    if not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
        raise ConfigurationError(f"hydra.sweeper.tolerance must be a fraction of R@1, as 0.002, got {tolerance!r}")
    if not config.hydra.launcher.get("wait", True):
        raise ConfigurationError("a search waits for its runs: leave hydra.launcher.wait=false out")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    where = space(sweep_words(config))
    jobs = _Jobs(config, launcher, where, n_trials)
    sampler = optuna.samplers.TPESampler(n_startup_trials=n_startup_trials, seed=seed, multivariate=True)
    study = optuna.create_study(sampler=sampler)
    distributions = {key: dimension.distribution for key, dimension in where.dimensions.items()}
    for first in range(0, n_trials, at_once):
        trials = [study.ask(distributions) for _ in range(min(at_once, n_trials - first))]
        arms = jobs.trained(
            [[f"{key}={where.dimensions[key].word(value)}" for key, value in trial.params.items()] for trial in trials]
        )
        if arms is None:  # what the search would go on with depends on what is missing
            return
        for trial, arm in zip(trials, arms, strict=True):
            if arm is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                trial.set_constraint(RECALL, arm.base_recall - tolerance - arm.recall)
                study.tell(trial, arm.opis)
        if first == 0 and jobs.announced and not any(arms):  # what they fail of, the others would, too
            return
    if jobs.refused and not jobs.announced:
        raise jobs.refused


class Arms(NamedTuple):
    """Means over the seeds, on held-out classes: of a setting, and R@1 of the baseline."""

    opis: float
    recall: float
    base_recall: float


class _Jobs:
    """The jobs of a search, each launched once.

    Attributes:
        announced: Runs that were, by their names.
        words: Of those that were composed.
        refused: Why the last setting was that could not be composed.
    """

    def __init__(self, config: DictConfig, launcher: Launcher, where: Space, n_trials: int) -> None:
        self.config, self.launcher, self.where = config, launcher, where
        self.total = (n_trials + 1) * len(where.seeds)
        self.announced: set[str] = set()
        self.words: dict[str, list[str]] = {}
        self.refused: ConfigurationError | None = None
        words = [*where.fixed, *(word for seed in where.seeds for word in seed), *map(str, where.dimensions.items())]
        self.name = config.sweep_name or f"search-{ledger.science_hash({'words': sorted(words)})[:6]}"
        self.folder = Path(config.paths.results_dir) / "runs"

    def trained(self, settings: Sequence[Sequence[str]]) -> list[Arms | None] | None:
        """Train settings, and the baseline if it is not there yet.

        Args:
            settings: For each the words beside those that all share.

        Returns:
            For each its scores, None for one that cannot be; None in place of all if a run has not come to its end.

        Raises:
            ConfigurationError: If the baseline cannot be.
        """
        base = self._base
        tried: list[Mapping[str, DictConfig] | None] = []
        for setting in settings:
            try:
                tried.append(self._composed([*self.where.fixed, *setting]))
            except ConfigurationError as error:  # margins out of order, say
                self.refused = error
                say(f"left out: {' '.join(setting)}: {error}")
                tried.append(None)
        if any(tried):
            new = {name: job for one in (base, *filter(None, tried)) for name, job in one.items()}
            self._launch({name: job for name, job in new.items() if name not in self.announced})
            if any(ledger.state(self.folder / name) in ("interrupted", "stale", "absent") for name in new):
                return None
        return [None if one is None else self._scores(base, one) for one in tried]

    @cached_property
    def _base(self) -> dict[str, DictConfig]:
        """The baseline's jobs."""
        return self._composed([*(word for word in self.where.fixed if not _is_tcm(word)), "tcm=none"])

    def _composed(self, words: Sequence[str]) -> dict[str, DictConfig]:
        """The jobs of these words, one a seed, by their runs' names."""
        found = {}
        for seed in self.where.seeds:
            overrides = [*words, *seed]
            job = compose_job(self.config, overrides)
            if not job.data.loader.validation_classes:
                raise ConfigurationError(
                    "a search chooses by training classes that are held out: give data.loader.validation_classes=N"
                )
            found[str(job.run_id)] = job
            self.words[str(job.run_id)] = overrides
        return found

    def _launch(self, new: Mapping[str, DictConfig]) -> None:
        if not new:
            return
        jobs = list(new.values())
        refuse_nonsense(jobs)
        runs = runs_of(jobs)
        announce(self.config, self.name, jobs, runs, total=self.total)
        self.announced.update(new)
        waiting = [
            (job, run)
            for job, run in zip(jobs, runs, strict=True)
            if job.force or ledger.state(self.folder / run.run_id) != "finished"
        ]
        if waiting:
            expect(*zip(*waiting, strict=True))
            overrides = [self.words[run.run_id] for _, run in waiting]
            for returned in self.launcher.launch(overrides, initial_job_idx=0):
                _ = returned.return_value  # raises what kept a job from leaving a row, as Hydra's own sweeper does
        # The same search may have been started twice.
        while any(ledger.state(self.folder / name) == "running" for name in new):
            time.sleep(POLL_S)

    def _scores(self, base: Mapping[str, Any], tcm: Mapping[str, Any]) -> Arms | None:
        scores = Arms(self._mean(tcm, OPIS), self._mean(tcm, RECALL), self._mean(base, RECALL))
        return None if math.isnan(sum(scores)) else scores

    def _mean(self, names: Mapping[str, Any], name: str) -> float:
        """Of a score on held-out classes; NaN if a run has none."""
        rows = [ledger.read_result(self.folder / run) for run in names]
        found = [row.metrics.get(f"{name}_val") if row and row.status in ledger.ENDED_WELL else None for row in rows]
        return math.fsum(math.nan if value is None else value for value in found) / len(found)


def _is_tcm(word: str) -> bool:
    return word.lstrip("+~").partition("=")[0].partition(".")[0] == "tcm"


def conclude_search(name: str, output_dir: Path, runs: Sequence[ledger.Run], tolerance: float) -> int:
    """Say what is chosen and what failed, and write all that was tried; the exit status is 1 if any run did not finish.

    The comparison table is not for a search: it has the test classes' scores of every setting, to choose by which would
    be to choose for them.

    Args:
        name: Of the search.
        output_dir: Holds `runs/` and `sweeps/`.
        runs: Of this start; an earlier one may have tried more.
        tolerance: See `search`.
    """
    listed = ledger.read_sweep(output_dir / ledger.SWEEPS / f"{name}.json").runs
    rows = list(ledger.results(output_dir / "runs" / run.run_id for run in listed))
    for row, label in zip(rows, labels(rows), strict=True):
        if row.status == "failed":
            say(f"{label}: failed, {row.reason} (run {row.run_id})")
    finished = [row for row in rows if row.status == "finished"]
    if any(row.metrics.get(f"{OPIS}_val") is not None for row in finished):
        for choice in choices(finished, tolerance):
            say(_told(choice))
        for path in write_choices(finished, output_dir / "report", name, tolerance):
            say(f"written: {path}")
    ended = {row.run_id for row in rows if row.status in ledger.ENDED_WELL}
    return int(any(run.run_id not in ended for run in runs))


def _told(choice: Choice) -> str:
    task = " ".join(choice.tried[0].of)
    if choice.base is None or choice.tcm is None:
        return f"{task}: no setting keeps R@1 and lowers OPIS on the held-out classes"

    base, tcm = choice.base, choice.tcm

    def arrow(name: str, before: float, after: float) -> str:
        scale = score(name).scale
        return f"{scale * before:.1f} -> {scale * after:.1f}"

    classes = [
        f"on {title} classes R@1 {arrow(RECALL, *recalls)} %, OPIS {arrow(OPIS, *spreads)} e-3"
        for title, recalls, spreads in (
            ("held-out", (base.recall_val, tcm.recall_val), (base.opis_val, tcm.opis_val)),
            ("test", (base.recall, tcm.recall), (base.opis, tcm.opis)),
        )
    ]
    return f"{task}: chosen is {tcm.tcm}; {', '.join(classes)}"
