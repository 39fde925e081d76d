"""A search for settings of TCM, which decides on its runs while they run: `hydra/sweeper=optuna`.

By the rule that `report/choice.py` states: the least OPIS on training classes that are held out, of R@1 there at most a
tolerance below the baseline's. A trial is a setting; its runs are those of the seeds, and the baseline's that share
everything else with it. Nothing but the runs is stored: a search that was stopped asks for the same settings in the
same order, and those that have finished are not trained again.
"""

import math
from collections.abc import Mapping, Sequence
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
        seeds: Of each setting's runs.
        dimensions: By their keys.
    """

    fixed: Sequence[str]
    seeds: Sequence[str]
    dimensions: Mapping[str, Dimension]


def space(words: Sequence[Override]) -> Space:
    """The space that the words of a command span; of a key that is given twice the last counts.

    Raises:
        ConfigurationError: If nothing is searched, or the baseline alone is asked for.
    """
    fixed: dict[str, str] = {}
    dimensions: dict[str, Dimension] = {}
    seeds = ["0"]
    for override in words:
        key = override.get_key_element()
        if key == "seed":
            seeds = list(override.sweep_string_iterator()) if override.is_sweep_override() else [_value(override)]
        elif override.is_sweep_override():
            dimensions[key] = _dimension(override)
            fixed.pop(key, None)
        else:
            assert override.input_line is not None
            fixed[key] = override.input_line
            dimensions.pop(key, None)
    if not any(key.startswith("tcm.") for key in dimensions):
        raise ConfigurationError(
            "hydra/sweeper=optuna searches settings of TCM: give one a range, 'tcm.negative_margin=interval(0.3,0.8)'"
        )
    if "tcm" in dimensions or fixed.get("tcm") == "tcm=none":
        raise ConfigurationError(
            "hydra/sweeper=optuna trains the baseline beside TCM by itself: leave tcm=none out, or name one setting"
        )
    return Space(list(fixed.values()), seeds, dimensions)


def _value(override: Override) -> str:
    return str(override.get_value_element_as_str())


def _dimension(override: Override) -> Dimension:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
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
    """Train settings that Optuna's TPE asks for, each beside its baseline.

    Args:
        config: The sweep's.
        launcher: Runs jobs.
        n_trials: Settings to try.
        at_once: Settings that are decided on together.
        n_startup_trials: Settings drawn by chance before scores have a say.
        seed: Of the search.
        tolerance: By how much R@1 on held-out classes may lie below the baseline's; a fraction.

    Raises:
        ConfigurationError: If the baseline cannot be composed, or none of the settings that are decided on together.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigurationError(
            "hydra/sweeper=optuna needs Optuna: `make setup EXTRAS=cpu,dev,search` installs it"
        ) from error
    for key, value in {"n_trials": n_trials, "at_once": at_once}.items():
        if type(value) is not int or value < 1:
            raise ConfigurationError(f"hydra.sweeper.{key} must be a whole number of at least 1, got {value!r}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not config.hydra.launcher.get("wait", True):
        raise ConfigurationError("a search waits for its runs: leave hydra.launcher.wait=false out")
    where = space(sweep_words(config))
    jobs = _Jobs(config, launcher, where)
    sampler = optuna.samplers.TPESampler(n_startup_trials=n_startup_trials, seed=seed, multivariate=True)
    study = optuna.create_study(sampler=sampler)
    distributions = {key: dimension.distribution for key, dimension in where.dimensions.items()}
    for first in range(0, n_trials, at_once):
        trials = [study.ask(distributions) for _ in range(min(at_once, n_trials - first))]
        arms = jobs.trained(
            [[f"{key}={where.dimensions[key].word(value)}" for key, value in trial.params.items()] for trial in trials]
        )
        for trial, arm in zip(trials, arms, strict=True):
            if arm is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                trial.set_constraint(RECALL, arm.base_recall - tolerance - arm.recall)
                study.tell(trial, arm.opis)
        if first == 0 and not any(arms):  # what they fail of, the others would, too
            return


class Arms(NamedTuple):
    """Means over the seeds, on held-out classes: of a setting, and R@1 of its baseline."""

    opis: float
    recall: float
    base_recall: float


class _Jobs:
    """The jobs of a search, each launched once."""

    def __init__(self, config: DictConfig, launcher: Launcher, where: Space) -> None:
        self.config, self.launcher, self.where = config, launcher, where
        self.words: dict[str, list[str]] = {}  # of all that were taken, by run
        self.name = config.sweep_name or f"search-{ledger.science_hash({'words': sorted(where.fixed)})[:6]}"

    def trained(self, settings: Sequence[Sequence[str]]) -> list[Arms | None]:
        """Train settings and their baselines; None for one that cannot be, or has not come to its end.

        Args:
            settings: For each the words beside those that all share.
        """
        new: dict[str, DictConfig] = {}
        runs: list[tuple[list[str], list[str]] | None] = []
        refused: ConfigurationError | None = None
        for setting in settings:
            base = self._composed([word for word in setting if not _is_tcm(word)], new, tcm=False)
            try:
                runs.append((base, self._composed(setting, new, tcm=True)))
            except ConfigurationError as error:  # margins out of order, say
                refused = error
                runs.append(None)
        if refused and not any(runs):
            raise refused
        self._launch(new)
        return [self._scores(*pair) if pair else None for pair in runs]

    def _composed(self, words: Sequence[str], new: dict[str, DictConfig], *, tcm: bool) -> list[str]:
        """Names of the runs of these words, one a seed; those not met before are added to `new`."""
        fixed = [word for word in self.where.fixed if tcm or not _is_tcm(word)]
        names, jobs, words_of = [], {}, {}
        for seed in self.where.seeds:
            overrides = [*fixed, *words, f"seed={seed}", *([] if tcm else ["tcm=none"])]
            job = compose_job(self.config, overrides)
            if not job.data.loader.validation_classes:
                raise ConfigurationError(
                    "a search chooses by training classes that are held out: give data.loader.validation_classes=N"
                )
            names.append(job.run_id)
            if job.run_id not in self.words:
                jobs[job.run_id], words_of[job.run_id] = job, overrides
        new.update(jobs)
        self.words.update(words_of)
        return names

    def _launch(self, new: Mapping[str, DictConfig]) -> None:
        if not new:
            return
        refuse_nonsense(list(new.values()))
        jobs = list(new.values())
        runs = runs_of(jobs)
        announce(self.config, self.name, jobs, runs)
        waiting = [
            (job, run)
            for job, run in zip(jobs, runs, strict=True)
            if job.force or ledger.state(Path(job.run_dir)) != "finished"
        ]
        if waiting:
            expect(*zip(*waiting, strict=True))
            self.launcher.launch([self.words[run.run_id] for _, run in waiting], initial_job_idx=0)

    def _scores(self, base: Sequence[str], tcm: Sequence[str]) -> Arms | None:
        opis, recall = self._mean(tcm, OPIS), self._mean(tcm, RECALL)
        scores = Arms(opis, recall, self._mean(base, RECALL))
        return None if math.isnan(sum(scores)) else scores

    def _mean(self, names: Sequence[str], name: str) -> float:
        """Of a score on held-out classes; NaN if a run has none, or has not finished."""
        folder = Path(self.config.paths.results_dir) / "runs"
        rows = [ledger.read_result(folder / run) for run in names]
        found = [row.metrics.get(f"{name}_val") if row and row.status == "finished" else None for row in rows]
        return math.fsum(math.nan if value is None else value for value in found) / len(found)


def _is_tcm(word: str) -> bool:
    return word.lstrip("+~").partition("=")[0].partition(".")[0] == "tcm"


def conclude_search(name: str, output_dir: Path, runs: Sequence[ledger.Run]) -> int:
    """Say what is chosen and what failed, and write all that was tried; the exit status is 1 if any run did not finish.

    The comparison table is not for a search: it has the test classes' scores of every setting, to choose by which would
    be to choose for them.
    """
    rows = list(ledger.results(output_dir / "runs" / run.run_id for run in runs))
    finished = [row for row in rows if row.status == "finished"]
    for row, label in zip(rows, labels(rows), strict=True):
        if row.status == "failed":
            say(f"{label}: failed, {row.reason} (run {row.run_id})")
    if any(f"{OPIS}_val" in row.metrics for row in finished):
        for choice in choices(finished):
            say(_told(choice))
        for path in write_choices(finished, output_dir / "report", name):
            say(f"written: {path}")
    return int(len(finished) < len(runs))


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
