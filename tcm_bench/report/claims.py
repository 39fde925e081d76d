"""What the article's authors say of TCM, held against what was measured here: holds, fails, or not enough data.

The claims and their numbers are public (arXiv 2307.04047 and its authors' article); which test each is put to is ours.
"""

import statistics
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import pandas as pd

from tcm_bench.report.comparison import ARTICLE, counted
from tcm_bench.report.fold import Comparisons
from tcm_bench.report.scores import score
from tcm_bench.results.labels import is_base
from tcm_bench.results.ledger import Result

Verdict = Literal["holds", "fails", "not enough data"]
RECALL_SHARE = 14 / 16  # of the comparisons in which the article's R@1 rises
SLOWER = 1.05  # a ratio of wall times that no longer is "no added cost"
FEWEST_SEEDS = 2  # a single one is an observation
FEWEST_BASES = 4  # baselines on one data set between which accuracy and consistency can part


class Claim(NamedTuple):
    """One claim and what came of it.

    Attributes:
        number: Of the claim, as in the documentation.
        text: What is claimed.
        verdict: What the rows say of it.
        found: The numbers behind the verdict.
    """

    number: str
    text: str
    verdict: Verdict
    found: str


def claims(found: Comparisons, results: Iterable[Result]) -> list[Claim]:
    """The article's claims against folded comparisons.

    Args:
        found: The comparisons.
        results: The runs that they were folded from.
    """
    rows = found.rows
    recall, opis = (score(name) for name in found.scores[:2])
    return [
        Claim(
            "C1",
            f"TCM lowers OPIS in every comparison ({ARTICLE[0]}).",
            _in_all(rows, "opis", 1.0),
            counted(rows, opis),
        ),
        Claim(
            "C2",
            f"R@1 rises in most ({ARTICLE[1]}).",
            _in_all(rows, recall.name, RECALL_SHARE),
            counted(rows, recall),
        ),
        _cost(results),
        _accuracy_and_consistency(rows, recall.name),
        _tighter(rows),
    ]


def _changes(rows: pd.DataFrame, name: str) -> pd.Series:
    """TCM minus base of the rows that have both, for the better if positive."""
    sign = 1 if score(name).higher_is_better else -1
    return (sign * (rows[f"{name}_tcm"] - rows[f"{name}_base"])).dropna()


def _in_all(rows: pd.DataFrame, name: str, share: float) -> Verdict:
    """Whether a score changes for the better in a share of the comparisons; what is missing could still decide it."""
    changes = _changes(rows, name)
    better = int((changes > 0).sum())
    if better + len(rows) - len(changes) < share * len(rows):
        return "fails"
    if better < share * len(rows) or not len(rows) or (rows["seeds"] < FEWEST_SEEDS).any():
        return "not enough data"
    return "holds"


def _cost(results: Iterable[Result]) -> Claim:
    """Wall time of a run with TCM over that of its baseline, on one machine in one sweep."""
    walls: dict[tuple[str, str], dict[bool, float]] = {}
    for run in results:
        if run.status == "finished" and run.comparison_id:
            walls.setdefault((run.comparison_id, str(run.choices.get("seed"))), {})[is_base(run)] = run.wall_s
    ratios = sorted(pair[False] / pair[True] for pair in walls.values() if len(pair) == 2 and pair[True])
    text = "TCM comes at no added cost."
    if not ratios:
        return Claim("C3", text, "not enough data", "no pair of runs")
    median = statistics.median(ratios)
    low, *_, high = statistics.quantiles(ratios, n=10) if len(ratios) > 1 else (median, median)
    return Claim(
        "C3",
        text,
        "holds" if median <= SLOWER else "fails",
        f"wall time of a whole run with TCM over its baseline's: median {median:.2f}, middle 80 % {low:.2f} to "
        f"{high:.2f}, {len(ratios)} pairs (with other work on the machine, and a sweep's first runs make features)",
    )


def _accuracy_and_consistency(rows: pd.DataFrame, recall: str) -> Claim:
    """Whether the most accurate baseline of a data set is another than the most consistent one."""
    text = "Higher accuracy does not mean a more consistent threshold; with TCM a model lies nearer to both axes."
    both = rows[[f"{recall}_base", f"{recall}_tcm", "opis_base", "opis_tcm"]].dropna()
    nearer = int(((both[f"{recall}_tcm"] >= both[f"{recall}_base"]) & (both["opis_tcm"] < both["opis_base"])).sum())
    found = f"with TCM at least as accurate and more consistent in {nearer} of {len(both)} comparisons"
    parted, judged = [], []
    for data, group in rows.groupby("data", sort=False):
        bases = group.drop_duplicates("comparison_id").dropna(subset=[f"{recall}_base", "opis_base"])
        if len(bases) >= FEWEST_BASES:
            judged.append(str(data))
            if bases[f"{recall}_base"].idxmax() != bases["opis_base"].idxmin():
                parted.append(str(data))
    if not judged:
        return Claim("C4", text, "not enough data", f"{found}; +sweep=pareto has the baselines for the first part")
    found = (
        f"the most accurate baseline is not the most consistent on {len(parted)} of {len(judged)} data sets; {found}"
    )
    return Claim("C4", text, "holds" if 2 * len(parted) > len(judged) and 2 * nearer > len(both) else "fails", found)


def _tighter(rows: pd.DataFrame) -> Claim:
    """By the interval that holds the middle 80 % of the classes' own thresholds."""
    text = "The utility curves of the classes lie visibly closer together."
    name = "threshold_spread_tar_90pct"
    if f"{name}_tcm" not in rows or not len(changes := _changes(rows, name)):
        return Claim("C5", text, "not enough data", "no spread of the classes' own thresholds was measured")
    closer = int((changes > 0).sum())
    return Claim("C5", text, "holds" if 2 * closer > len(changes) else "fails", counted(rows, score(name)))


def summed_up(found: Sequence[Claim]) -> str:
    """One sentence for the head of a report."""
    by_verdict: dict[str, list[str]] = {}
    for claim in found:
        by_verdict.setdefault(claim.verdict, []).append(claim.number)
    words = {"holds": "hold", "fails": "fail", "not enough data": "cannot be judged by these runs"}
    parts = [f"{', '.join(by_verdict[verdict])} {word}" for verdict, word in words.items() if verdict in by_verdict]
    return f"Of the article's claims {'; '.join(parts)}."
