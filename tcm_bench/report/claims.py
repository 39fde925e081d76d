"""What the article's authors say of TCM, held against what was measured here: holds, fails, or not enough data.

The claims and their numbers are public (arXiv 2307.04047 and its authors' article); which test each is put to is ours.
A comparison counts as better or worse where a paired t test over at least `ENOUGH_SEEDS` seeds says so, and of all that
are called so at most `FALSE_DISCOVERIES` are wrong to be expected (Benjamini and Hochberg). What is not sure counts as
neither, so that few seeds and small changes end in "not enough data" and in no verdict.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from tcm_bench.evaluation.bootstrap import p_value, paired_difference
from tcm_bench.report.comparison import ARTICLE, ENOUGH_SEEDS, counted
from tcm_bench.report.fold import COMPARABLE, Comparisons, Pair, tcm_kinds
from tcm_bench.report.scores import score
from tcm_bench.results.labels import is_base, labels
from tcm_bench.results.ledger import Result

Verdict = Literal["holds", "fails", "not enough data"]
FALSE_DISCOVERIES = 0.05
RECALL_SHARE = 14 / 16  # of the comparisons in which the article's R@1 rises
MOST = 1 / 2
SLOWER = 1.05  # a ratio of the times of a step that no longer is "no added cost"
FEWEST_BASES = 4  # baselines of one data set and backbone between which accuracy and consistency can part
MOST_KINDS = 4  # of TCM that are judged one by one: more are a search
SPREAD = "threshold_spread_tar_90pct"

TEXTS = (
    f"TCM lowers OPIS in every comparison ({ARTICLE[0]}).",
    f"R@1 rises in most ({ARTICLE[1]}).",
    "TCM comes at no added cost.",
    "Higher accuracy does not mean a more consistent threshold; with TCM a model lies nearer to both axes.",
    "The utility curves of the classes lie visibly closer together.",
)


class Claim(NamedTuple):
    """One claim and what came of it.

    Attributes:
        number: Of the claim, as in the documentation; with the setting of TCM where there are several.
        text: What is claimed.
        verdict: What the rows say of it.
        found: The numbers behind the verdict.
    """

    number: str
    text: str
    verdict: Verdict
    found: str


class _Tally(NamedTuple):
    """Comparisons that are surely better with TCM, those that are surely worse, and all, judged or not."""

    better: np.ndarray
    worse: np.ndarray
    enough: int  # of them with as many seeds as are needed

    def verdict(self, share: float) -> Verdict:
        """Whether TCM betters so large a share of the comparisons; a half: more than half of them."""
        of = len(self.better)
        if not of:
            return "not enough data"
        needed = of // 2 + 1 if share == MOST else math.ceil(share * of)
        if self.worse.sum() > of - needed:
            return "fails"
        return "holds" if self.better.sum() >= needed else "not enough data"

    def __str__(self) -> str:
        sure = f"surely better in {self.better.sum()} of {len(self.better)}, surely worse in {self.worse.sum()}"
        few = len(self.better) - self.enough
        return sure + (f"; {few} with fewer than {ENOUGH_SEEDS} seeds" if few else "")


def claims(found: Comparisons, results: Iterable[Result]) -> list[Claim]:
    """The article's claims against folded comparisons; where TCM came in several settings, against each.

    Args:
        found: The comparisons.
        results: The runs that they were folded from; of a sweep of baselines alone there are no others.
    """
    parting = _parting(list(results), *found.scores[:2])
    kinds = tcm_kinds(found.rows)
    named = [kind for kind in dict.fromkeys(kinds) if kind]
    if len(named) > MOST_KINDS:
        told = f"{len(named)} settings of TCM, of which one is to be chosen first (`tcm-bench choose`)"
        return [Claim(f"C{n}", text, "not enough data", told) for n, text in enumerate(TEXTS, 1)]
    judged = []
    for kind in named or [""]:
        is_of_kind = kinds.isin([kind, ""])  # a comparison without any TCM is missing from each
        pairs = [found.pairs[number] for number in np.flatnonzero(is_of_kind)]
        for claim in _of_kind(found.rows[is_of_kind], pairs, parting, found.scores):
            judged.append(claim._replace(number=f"{claim.number} {kind}") if len(named) > 1 else claim)
    return sorted(judged, key=lambda claim: claim.number.partition(" ")[0])


def _of_kind(
    rows: pd.DataFrame, pairs: Sequence[Sequence[Pair]], parting: tuple[Verdict, str], scores: Sequence[str]
) -> list[Claim]:
    """All claims of one setting of TCM."""
    recall, opis = scores[:2]
    of_opis, of_recall = (_tally(pairs, _metric(name), higher=score(name).higher_is_better) for name in (opis, recall))
    spread = _tally(pairs, _relative_spread, higher=False)
    lower = "no spread of the classes' own thresholds was measured"
    if f"{SPREAD}_tcm" in rows and rows[f"{SPREAD}_tcm"].notna().any():
        lower = f"{counted(rows, score(SPREAD))}; as a part of the calibration range {spread}"
    return [
        Claim("C1", TEXTS[0], of_opis.verdict(1.0), f"{counted(rows, score(opis))}; {of_opis}"),
        Claim("C2", TEXTS[1], of_recall.verdict(RECALL_SHARE), f"{counted(rows, score(recall))}; {of_recall}"),
        _cost(pairs),
        _accuracy_and_consistency(of_recall, of_opis, *parting),
        Claim("C5", TEXTS[4], spread.verdict(MOST), lower),
    ]


def _metric(name: str) -> Callable[[Result], float]:
    def value(run: Result) -> float:
        found = run.metrics.get(name)
        return math.nan if found is None else found

    return value


def _relative_spread(run: Result) -> float:
    """Of the classes' own thresholds, in widths of the run's calibration range: an embedding may be wide or narrow."""
    ends = run.threshold.get("threshold_low"), run.threshold.get("threshold_high")
    if None in ends or ends[0] == ends[1]:
        return math.nan
    return _metric(SPREAD)(run) / abs(ends[1] - ends[0])  # type: ignore[operator]


def _tally(pairs: Sequence[Sequence[Pair]], value: Callable[[Result], float], *, higher: bool) -> _Tally:
    """Which comparisons a value says are better with TCM, and which worse."""
    sign = 1 if higher else -1
    values = [[(value(base), value(tcm)) for base, tcm in of] for of in pairs]
    changes, p_values = zip(*map(_paired, values), strict=True) if values else ((), ())
    gains, sure = sign * np.array(changes), _sure(p_values)
    return _Tally(sure & (gains > 0), sure & (gains < 0), sum(len(of) >= ENOUGH_SEEDS for of in values))


def _paired(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Mean of the second less the first over seeds, and its p-value, NaN with too few of them."""
    difference = paired_difference([one for one, _ in values], [other for _, other in values])
    return difference[0], p_value(difference, len(values)) if len(values) >= ENOUGH_SEEDS else math.nan


def _sure(p_values: Sequence[float]) -> np.ndarray:
    """Which of several tests have found something, NaN being none."""
    from scipy.stats import false_discovery_control

    values = np.array(p_values)
    sure, known = np.zeros(len(values), dtype=bool), ~np.isnan(values)
    if known.any():
        sure[known] = false_discovery_control(values[known]) < FALSE_DISCOVERIES
    return sure


def _cost(pairs: Sequence[Sequence[Pair]]) -> Claim:
    """The time of a training step with TCM over that of its baseline, where both were made with the same software."""
    ratios = [
        tcm.step_s / base.step_s
        for of in pairs
        for base, tcm in of
        if base.step_s and tcm.step_s and (base.threads, base.versions) == (tcm.threads, tcm.versions)
    ]
    if not ratios:
        return Claim("C3", TEXTS[2], "not enough data", "no pair of runs whose training steps were timed")
    from scipy.stats import binomtest

    verdicts: dict[Verdict, int] = {"holds": sum(ratio <= SLOWER for ratio in ratios)}
    verdicts["fails"] = len(ratios) - verdicts["holds"]
    sure = [
        verdict
        for verdict, count in verdicts.items()
        if binomtest(count, len(ratios), alternative="greater").pvalue < FALSE_DISCOVERIES
    ]
    return Claim(
        "C3",
        TEXTS[2],
        sure[0] if sure else "not enough data",
        f"a step with TCM takes {statistics.median(ratios):.2f} times its baseline's, median of {len(ratios)} pairs "
        f"of runs; at most {SLOWER:g} times in {verdicts['holds']} of them (other work on the machine counts, too)",
    )


def _accuracy_and_consistency(recall: _Tally, opis: _Tally, parting: Verdict, found: str) -> Claim:
    """Both parts of the claim: of the baselines, and of TCM."""
    both = _Tally(recall.better & opis.better, recall.worse | opis.worse, min(recall.enough, opis.enough))
    verdicts = {parting, both.verdict(MOST)}
    return Claim(
        "C4",
        TEXTS[3],
        "fails" if "fails" in verdicts else "holds" if verdicts == {"holds"} else "not enough data",
        f"{found}; with TCM both R@1 and OPIS are surely better in {both.better.sum()} of {len(both.better)}, and one "
        f"of them is surely worse in {both.worse.sum()}",
    )


def _parting(runs: Sequence[Result], recall: str, opis: str) -> tuple[Verdict, str]:
    """Whether of two baselines on the same data and backbone the more accurate one may surely be the less consistent.

    Only such are compared whose OPIS was measured alike.

    It fails where the most accurate baseline is surely the most consistent one, on every set and backbone.
    """
    groups: dict[tuple[str, ...], dict[str, dict[str, Result]]] = {}
    for run, label in zip(runs, labels(runs), strict=True):
        if is_base(run) and run.status == "finished":
            measured = [str(run.threshold.get(name)) for name in COMPARABLE]
            of = groups.setdefault((label.data, label.backbone, str(run.data_hash), *measured), {})
            of.setdefault(f"{label.loss} {label.setting}".strip(), {})[label.seed] = run
    verdicts: list[Verdict] = []
    found = []
    for (data, backbone, *_), bases in groups.items():
        if len(bases) < FEWEST_BASES:
            continue
        parted, agreeing = _compared(bases, recall, opis)
        means = {name: np.mean([_metric(recall)(run) for run in seeds.values()]) for name, seeds in bases.items()}
        best = max(means, key=lambda name: means[name])
        leads = all((best, other) in agreeing for other in bases if other != best)
        verdicts.append("holds" if parted else "fails" if leads else "not enough data")
        found.append(
            f"on {data}, {backbone} of {math.comb(len(bases), 2)} pairs among {len(bases)} baselines in {len(parted)} "
            f"the surely more accurate is surely the less consistent, in {len(agreeing)} the more consistent"
        )
    if not found:
        return "not enough data", f"no data set has {FEWEST_BASES} baselines, as those of +sweep=pareto"
    verdict: Verdict = "fails" if {*verdicts} == {"fails"} else "not enough data"
    return "holds" if "holds" in verdicts else verdict, "; ".join(found)


def _compared(
    bases: dict[str, dict[str, Result]], recall: str, opis: str
) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Pairs of baselines, the more accurate first, that surely differ in both scores: those that part, and the rest."""
    pairs, p_values, changes = [], [], []
    for one, other in combinations(bases, 2):
        shared = sorted(bases[one].keys() & bases[other].keys())
        found = [
            _paired([(_metric(name)(bases[other][seed]), _metric(name)(bases[one][seed])) for seed in shared])
            for name in (recall, opis)
        ]
        pairs.append((one, other))
        changes.append([change for change, _ in found])
        p_values.append(float(np.max([p for _, p in found])))  # sure if both are
    parted, agreeing = set[tuple[str, str]](), set[tuple[str, str]]()
    for pair, is_sure, (accuracy, inconsistency) in zip(pairs, _sure(p_values), changes, strict=True):
        if is_sure:
            ordered = pair if accuracy > 0 else pair[::-1]
            (parted if (accuracy > 0) == (inconsistency > 0) else agreeing).add(ordered)
    return parted, agreeing


def summed_up(found: Sequence[Claim]) -> str:
    """One sentence for the head of a report."""
    by_verdict: dict[str, list[str]] = {}
    for claim in found:
        by_verdict.setdefault(claim.verdict, []).append(claim.number)
    words = {
        "holds": ("holds", "hold"),
        "fails": ("fails", "fail"),
        "not enough data": ("is not settled by these runs", "are not settled by these runs"),
    }
    parts = [
        f"{', '.join(by_verdict[verdict])} {many if len(by_verdict[verdict]) > 1 else one}"
        for verdict, (one, many) in words.items()
        if verdict in by_verdict
    ]
    return f"Of the article's claims {'; '.join(parts)}."
