"""The comparison table in the article's form, as LaTeX."""

import math
import re

from tcm_bench.report.fold import Comparisons, row_names
from tcm_bench.report.scores import Score, arrow, score

ARROWS = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "=": "$=$"}
ESCAPED = {letter: rf"\{letter}" for letter in "_%&#${}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def latex(found: Comparisons, name: str) -> str:
    """Value with TCM and its absolute change, better ones green, the others red; needs booktabs and xcolor.

    Args:
        found: The comparisons.
        name: Of the sweep, for the label.
    """
    shown = [score(metric) for metric in found.scores]
    titles = ["data", "backbone", "loss", "seeds", *(f"{metric.title} {metric.unit}" for metric in shown)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{With TCM, and its change over the same network without it: mean over the seeds. "
        rf"Sweep {_escaped(name)}.}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9.:-]', '-', name)}}}",
        rf"\begin{{tabular}}{{lllr{'r' * len(shown)}}}",
        r"\toprule",
        " & ".join(map(_escaped, titles)) + r" \\",
        r"\midrule",
    ]
    for row, names in zip(found.rows.to_dict("records"), row_names(found.rows), strict=True):
        cells = [_escaped(text) for text in names] + [_cell(row, metric) for metric in shown]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _cell(row: dict[str, float], metric: Score) -> str:
    base, tcm = row[f"{metric.name}_base"], row[f"{metric.name}_tcm"]
    if math.isnan(tcm):
        return "--"
    value = f"{metric.scale * tcm:.1f}"
    if math.isnan(base):
        return value
    change = metric.scale * (tcm - base)
    color = {True: "teal", False: "red", None: "black"}[metric.is_better(change)]
    return rf"{value} \textcolor{{{color}}}{{\scriptsize {ARROWS[arrow(change)]}{abs(change):.1f}}}"


def _escaped(text: str) -> str:
    return "".join(ESCAPED.get(letter, letter) for letter in text)
