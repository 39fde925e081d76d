"""From the rows of single runs to one row per comparison: the same task without TCM and with it.

A comparison is everything that decides a run's numbers but the TCM setting and the seed. Its two arms are
averaged over the seeds that both have: a seed fixes initialization and batches, and what two runs share
cancels in their difference.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tcm_bench.functional.statistics import paired_difference
from tcm_bench.ledger import Result

BASE_ARM = "none"
FACTORS = ("data", "backbone", "loss")
METRICS = ("recall_at_1", "opis", "opis_10pct")
MEASURED = (*METRICS, *(f"{metric}_seen" for metric in METRICS))
SETTINGS = ("axis", "far_bounds", "steps", "c", "eps", "ranking")

COLUMNS = (
    *FACTORS,
    "seeds",
    "recall_at_1_before",
    *(f"{metric}_{arm}" for metric in METRICS for arm in ("base", "tcm")),
)
FURTHER_COLUMNS = (
    "tcm",
    "comparison_id",
    *(f"{metric}_{arm}" for metric in MEASURED[len(METRICS) :] for arm in ("base", "tcm")),
    *(f"{metric}_change_{bound}" for metric in MEASURED for bound in ("low", "high")),
)


@dataclass(frozen=True)
class Comparisons:
    """What a set of runs has to say about TCM.

    Attributes:
        rows: One row per comparison and TCM variant, `COLUMNS` first, then `FURTHER_COLUMNS`; fractions. NaN
            where an arm is missing or a metric is undefined in one of the seeds. `*_change_low` and
            `*_change_high` bound the paired difference, TCM minus base, at 95 %; they need two seeds.
        settings: The distinct settings behind OPIS of the finished runs; more than one cannot be compared.
        commits: The distinct commits of the code behind them, `+` marking local changes.
        notes: A sentence for each thing that is not as it should be: runs that failed, are missing or have no
            partner, metrics that are undefined, arms that saw different data.
    """

    rows: pd.DataFrame
    settings: tuple[Mapping[str, Any], ...]
    commits: tuple[str, ...]
    notes: tuple[str, ...]


Key = tuple[str, ...]
Arm = dict[int | str, Result]  # seed -> run


def fold(results: Iterable[Result], planned: Sequence[Mapping[str, Any]] = ()) -> Comparisons:
    """Pair the runs, average over the seeds both arms have, and note what does not add up.

    Args:
        results: Rows of runs, whatever their status.
        planned: All runs that should exist, each with `run_id` and `choices`. One without a row makes its
            comparison incomplete instead of invisible.

    Returns:
        Comparisons in the order in which they are planned, or else first met.

    Raises:
        ValueError: If two runs differ in something that their choices do not name.
    """
    results = list(results)
    arms, notes = _arms(results, planned)
    rows = [row for key in arms for row in _rows(key, arms[key], notes)]
    finished = [run for run in results if run.status == "finished"]
    settings = [{name: run.threshold[name] for name in SETTINGS if name in run.threshold} for run in finished]
    return Comparisons(
        rows=pd.DataFrame(rows, columns=[*COLUMNS, *FURTHER_COLUMNS]),
        settings=tuple(s for i, s in enumerate(settings) if s and s not in settings[:i]),
        commits=tuple(dict.fromkeys(_commit(run) for run in finished)),
        notes=tuple(notes),
    )


def _arms(
    results: Sequence[Result], planned: Sequence[Mapping[str, Any]]
) -> tuple[dict[Key, dict[str, Arm]], list[str]]:
    """Finished runs by comparison, arm and seed; comparisons without any stay, empty."""
    ended = {run.run_id: run for run in results}
    notes: list[str] = []
    names: dict[str, Key] = {run.comparison_id: (*_factors(run.choices), run.comparison_id) for run in results}
    arms: dict[Key, dict[str, Arm]] = {}
    order = [(plan["run_id"], plan["choices"]) for plan in planned] + [(r.run_id, r.choices) for r in results]
    for run_id, choices in dict(order).items():
        run = ended.get(run_id)
        same_names = (key for key in names.values() if key[:-1] == _factors(choices))
        key = names[run.comparison_id] if run else next(same_names, (*_factors(choices), ""))
        arm = arms.setdefault(key, {}).setdefault(_variant(choices), {})
        seed = choices.get("seed", 0)
        if run is None:
            notes.append(f"{_described(choices)}: no result yet (run {run_id})")
        elif run.status != "finished":
            notes.append(f"{_described(choices)}: {run.status}, {_reason(run)} (run {run_id})")
        elif seed in arm:
            raise ValueError(
                f"runs {arm[seed].run_id} and {run_id} are both {_described(choices)}, so what tells them apart "
                "has no name; report them one at a time"
            )
        else:
            arm[seed] = run
            if run.reason:
                notes.append(f"{_described(choices)}: {_reason(run)} (run {run_id})")
    return arms, notes


def _rows(key: Key, arms: dict[str, Arm], notes: list[str]) -> Iterable[dict[str, Any]]:
    base = arms.get(BASE_ARM, {})
    for variant in [name for name in arms if name != BASE_ARM] or [""]:
        tcm = arms.get(variant, {})
        seeds = sorted(base.keys() & tcm.keys(), key=str)
        pairs = [(base[seed], tcm[seed]) for seed in seeds]
        for arm, name in ((base, BASE_ARM), (tcm, variant)):
            if alone := sorted(arm.keys() - set(seeds), key=str):
                which = ", ".join(map(str, alone))
                notes.append(f"{' '.join(key[:-1])}: seed {which} has a finished run with tcm={name} only, left out")
        if any(one.data_hash != other.data_hash for one, other in pairs):
            notes.append(f"{' '.join(key[:-1])}: the two arms saw different data, do not compare them")
        yield _row(key, variant, pairs)


def _row(key: Key, variant: str, pairs: Sequence[tuple[Result, Result]]) -> dict[str, Any]:
    *factors, comparison_id = key
    row: dict[str, Any] = dict(zip(FACTORS, factors, strict=True))
    row |= {"seeds": len(pairs), "tcm": variant, "comparison_id": comparison_id}
    row["recall_at_1_before"] = _mean([_value(run, "recall_at_1_before") for pair in pairs for run in pair])
    for metric in MEASURED:
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


def _factors(choices: Mapping[str, Any]) -> Key:
    return tuple(str(choices.get(factor, "?")) for factor in FACTORS)


def _variant(choices: Mapping[str, Any]) -> str:
    """The TCM setting's name, and whatever else was chosen beside factors and seed."""
    if choices.get("tcm") == BASE_ARM:
        return BASE_ARM
    further = [f"{k}={v}" for k, v in choices.items() if k not in (*FACTORS, "tcm", "seed")]
    return " ".join([str(choices.get("tcm", "?")), *further])


def _described(choices: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in choices.items())


def _reason(run: Result) -> str:
    """On one line, whatever an exception had to say."""
    return " ".join((run.reason or "no reason given").split())


def _commit(run: Result) -> str:
    sha = run.git.get("sha")
    return f"{sha[:10]}{'+' if run.git.get('dirty') else ''}" if sha else "unknown"
