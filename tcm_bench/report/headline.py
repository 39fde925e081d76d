"""The short table of a README: the rows of a comparison, and a sentence for each score."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from tcm_bench.report.scores import score

SHOWN = ("recall_at_1", "opis", "opis_corrected", "opis_10pct")


def headline(rows: pd.DataFrame) -> str:
    """Markdown of a comparison's csv, as `tcm_bench.report.comparison.write_comparison` writes it.

    Args:
        rows: One a comparison; fractions.

    Returns:
        A table, an asterisk where the 95 % interval of the paired difference leaves out 0, and beneath it how many
        comparisons changed for the better, by how much, and in how many of them the interval leaves out 0.
    """
    shown = [name for name in SHOWN if f"{name}_base" in rows]
    titles = ["data", "backbone", "loss", *(f"{score(name).title} {score(name).unit}" for name in shown)]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * 3}{'---:|' * len(shown)}"]
    for row in rows.to_dict("records"):
        lines.append(f"| {' | '.join([row['data'], row['backbone'], row['loss'], *(_cell(row, n) for n in shown)])} |")
    return "\n".join([*lines, "", *(f"- {_sentence(rows, name)}" for name in shown)])


def _cell(row: Mapping[str, Any], name: str) -> str:
    of, base, tcm = score(name), row[f"{name}_base"], row[f"{name}_tcm"]
    if math.isnan(base) or math.isnan(tcm):
        return "–"
    change = f"{100 * (tcm / base - 1):+.0f} %" if of.relative else f"{of.scale * (tcm - base):+.1f}"
    sure = "\\*" if _is_sure(row, name) else ""
    return f"{of.scale * base:.1f} → {of.scale * tcm:.1f} ({change}{sure})"


def _is_sure(row: Mapping[str, Any], name: str) -> bool:
    return bool(row[f"{name}_change_low"] > 0 or row[f"{name}_change_high"] < 0)


def _sentence(rows: pd.DataFrame, name: str) -> str:
    of = score(name)
    both = rows.dropna(subset=[f"{name}_base", f"{name}_tcm"])
    base, tcm = both[f"{name}_base"], both[f"{name}_tcm"]
    change = 100 * (tcm / base - 1) if of.relative else of.scale * (tcm - base)
    better = (change > 0) if of.higher_is_better else (change < 0)
    sure = both.apply(lambda row: _is_sure(row, name), axis=1)
    unit = " %" if of.relative else " points"
    return (
        f"{of.title} {'rose' if of.higher_is_better else 'fell'} in {better.sum()} of {len(rows)}, "
        f"mean {change.mean():+.1f}{unit}, between {change.min():+.1f} and {change.max():+.1f}; the interval leaves "
        f"out 0 in {(better & sure).sum()} of them and in {(~better & sure).sum()} of the others."
    )
