"""From the rows of single runs to one row per comparison: the same task without TCM and with it.

A comparison is everything that decides a run's numbers but the TCM setting and the seed. Its two arms are
averaged over the seeds that both have: a seed fixes initialization and batches, and what two runs share
cancels in their difference.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tcm_bench.evaluation.bootstrap import paired_difference
from tcm_bench.evaluation.settings import Settings
from tcm_bench.report.scores import compared, details
from tcm_bench.results.labels import FACTORS, Label, is_base, labels, shared_by_hand
from tcm_bench.results.ledger import Result, Run

BASE_ARM = "none"
SETTINGS = tuple(Settings().of_headline())
COMPARABLE = tuple(name for name in SETTINGS if name != "eps")  # scores of different shares have names of their own


Key = tuple[Label, str]  # of any run of the comparison, less TCM and seed; and its id
Arm = dict[str, Result]  # seed -> run
Pair = tuple[Result, Result]  # base and TCM


@dataclass(frozen=True)
class Comparisons:
    """What a set of runs has to say about TCM.

    Attributes:
        rows: One row per comparison and TCM variant, with the `columns` of `scores`; fractions. NaN where an arm is
            missing or a score is undefined in one of the seeds. `*_change_low` and `*_change_high` bound the paired
            difference, TCM minus base, at 95 %; they need two seeds.
        pairs: The runs behind each of the rows: base and TCM of each seed that both have, by increasing seed.
        scores: Names of what is compared, see `tcm_bench.report.scores.compared`.
        details: Names of what a change is made of, see `tcm_bench.report.scores.details`; not on seen classes.
        tested: What the scores are of, see `tcm_bench.results.ledger.Result.tested`.
        settings: The distinct settings behind OPIS of the finished runs; more than one cannot be compared.
        by_hand: What was set by hand for all runs alike.
        commits: The distinct commits of the code behind them, `+` marking local changes.
        notes: A sentence for each thing that is not as it should be: runs that failed, are missing or have no
            partner, metrics that are undefined, arms that saw different data.
    """

    rows: pd.DataFrame
    pairs: tuple[Sequence[Pair], ...]
    scores: tuple[str, ...]
    details: tuple[str, ...]
    tested: str
    settings: tuple[Mapping[str, Any], ...]
    by_hand: Mapping[str, str]
    commits: tuple[str, ...]
    notes: tuple[str, ...]


def columns(scores: Sequence[str], details: Sequence[str] = ()) -> list[str]:
    """Names of the columns of `Comparisons.rows`, in order."""

    def arms(names: Sequence[str]) -> list[str]:
        return [f"{name}_{arm}" for name in names for arm in ("base", "tcm")]

    seen = [f"{name}_seen" for name in scores]

    def bounds(names: Sequence[str]) -> list[str]:
        return [f"{name}_change_{bound}" for name in names for bound in ("low", "high")]

    first = [*FACTORS, "seeds", "recall_at_1_before", *arms(scores), "setting", "tcm", "comparison_id"]
    return [*first, *arms(seen), *bounds([*scores, *seen]), *arms(details), *bounds(details)]


def fold(results: Iterable[Result], planned: Sequence[Run] = ()) -> Comparisons:
    """Pair the runs, average over the seeds both arms have, and note what does not add up.

    Args:
        results: Rows of runs, whatever their status.
        planned: All runs that should exist. One without a row makes its comparison incomplete instead of invisible.

    Returns:
        Comparisons in the order in which they are planned, or else first met.
    """
    results = list(results)
    finished = [run for run in results if run.status == "finished"]
    measured = [name for run in finished for name in run.metrics]
    scores, more = compared(measured), details(measured)
    runs: list[Run] = list({run.run_id: run for run in (*planned, *results)}.values())
    arms, notes = _arms(runs)
    every = (*scores, *(f"{name}_seen" for name in scores), *more)
    folded = [one for key in arms for one in _rows(key, arms[key], every, notes)]
    settings = [{name: run.threshold[name] for name in SETTINGS if name in run.threshold} for run in finished]
    return Comparisons(
        rows=pd.DataFrame([row for row, _ in folded], columns=columns(scores, more)),
        pairs=tuple(pairs for _, pairs in folded),
        scores=scores,
        details=more,
        tested=" and ".join(dict.fromkeys(run.tested for run in finished)) or "unseen classes",
        settings=tuple(s for i, s in enumerate(settings) if s and s not in settings[:i]),
        by_hand=shared_by_hand(runs),
        commits=tuple(dict.fromkeys(_commit(run) for run in finished)),
        notes=tuple(notes),
    )


def row_names(rows: pd.DataFrame) -> list[list[str]]:
    """First four cells of each row; the loss says with which settings, and with which TCM if there are several."""
    kinds = tcm_kinds(rows)
    several = kinds[kinds != ""].nunique() > 1
    details = [
        "".join([f" {setting}"] * bool(setting) + [f" ({tcm})"] * bool(tcm and several))
        for setting, tcm in zip(rows["setting"], kinds, strict=True)
    ]
    columns = (rows["data"], rows["backbone"], rows["loss"] + details, rows["seeds"].astype(str))
    return [list(names) for names in zip(*columns, strict=True)]


def tcm_kinds(rows: pd.DataFrame) -> pd.Series:
    """TCM of each row by its first word, without the values, if that tells the rows of each comparison apart."""
    kinds = rows["tcm"].str.partition(" ")[0] if len(rows) else rows["tcm"]
    ambiguous = rows.assign(tcm=kinds).duplicated(["data", "backbone", "loss", "setting", "tcm"]).any()
    return rows["tcm"] if ambiguous else kinds


def _arms(runs: Sequence[Run]) -> tuple[dict[Key, dict[str, Arm]], list[str]]:
    """Finished runs by comparison, arm and seed; comparisons without any stay, empty."""
    notes: list[str] = []
    arms: dict[Key, dict[str, Arm]] = {}
    for run, label in zip(runs, labels(runs), strict=True):
        base = is_base(run)
        key = label._replace(tcm="", seed=""), run.comparison_id
        arm = arms.setdefault(key, {}).setdefault(BASE_ARM if base else label.tcm, {})
        if not isinstance(run, Result):
            notes.append(f"{label}: no result yet (run {run.run_id})")
        elif run.status != "finished":
            notes.append(f"{label}: {run.status}, {_reason(run)} (run {run.run_id})")
        else:
            if run.reason:
                notes.append(f"{label}: {_reason(run)} (run {run.run_id})")
            used = arm.setdefault(label.seed, run)  # margins without weight: the same base again
            if used.metrics != run.metrics:
                notes.append(
                    f"{label}: runs {used.run_id} and {run.run_id} are the same base and differ in their numbers, of "
                    "which those of the first are used"
                )
    return arms, notes


def _rows(
    key: Key, arms: dict[str, Arm], scores: Sequence[str], notes: list[str]
) -> Iterator[tuple[dict[str, Any], list[Pair]]]:
    task = key[0].task
    base = arms.get(BASE_ARM, {})
    for variant in [name for name in arms if name != BASE_ARM] or [""]:
        tcm = arms.get(variant, {})
        both = sorted(base.keys() & tcm.keys(), key=int)
        seeds = [seed for seed in both if base[seed].data_hash == tcm[seed].data_hash]
        pairs = [(base[seed], tcm[seed]) for seed in seeds]
        for arm, name in ((base, BASE_ARM), (tcm, variant)):
            if alone := sorted(arm.keys() - set(both), key=int):
                which = ", ".join(alone)
                notes.append(f"{task}: seed {which} has a finished run with tcm={name} only, left out")
        if len(seeds) < len(both):
            which = ", ".join(seed for seed in both if seed not in seeds)
            notes.append(f"{task}: the arms of seed {which} saw different data and cannot be compared, left out")
        yield _row(key, variant, pairs, scores), pairs


def _row(key: Key, variant: str, pairs: Sequence[Pair], scores: Sequence[str]) -> dict[str, Any]:
    label, comparison_id = key
    row: dict[str, Any] = {**label._asdict(), "seeds": len(pairs), "tcm": variant, "comparison_id": comparison_id}
    row["recall_at_1_before"] = _mean([_value(run, "recall_at_1_before") for pair in pairs for run in pair])
    for metric in scores:
        base = [_value(run, metric) for run, _ in pairs]
        tcm = [_value(run, metric) for _, run in pairs]
        row |= {f"{metric}_base": _mean(base), f"{metric}_tcm": _mean(tcm)}
        _, low, high = paired_difference(base, tcm)
        row |= {f"{metric}_change_low": low, f"{metric}_change_high": high}
    return row


def _value(run: Result, metric: str) -> float:
    value = run.metrics.get(metric)
    return math.nan if value is None else value


def _mean(values: Sequence[float]) -> float:
    """NaN if any value is: a seed whose metric is undefined must not drop out of an average unseen."""
    return math.fsum(values) / len(values) if values else math.nan


def _reason(run: Result) -> str:
    """On one line, whatever an exception had to say."""
    return " ".join((run.reason or "no reason given").split())


def _commit(run: Result) -> str:
    sha = run.git.get("sha")
    return f"{sha[:10]}{'+' if run.git.get('dirty') else ''}" if sha else "unknown"
