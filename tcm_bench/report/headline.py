"""The short table of a README: the rows of a comparison, and a sentence for each score."""

import pandas as pd

from tcm_bench.report.comparison import cell, counted, pipe_table
from tcm_bench.report.fold import row_names, tcm_kinds
from tcm_bench.report.scores import score

SHOWN = ("recall_at_1", "opis", "opis_corrected", "opis_10pct")


def headline(rows: pd.DataFrame) -> str:
    """Markdown of a comparison's csv, as `tcm_bench.report.comparison.write_comparison` writes it.

    Args:
        rows: One a comparison; fractions.

    Returns:
        A table, and beneath it how many comparisons changed for the better, by how much, and how surely: a sentence
        for each score and kind of TCM.
    """
    shown = [score(name) for name in SHOWN if f"{name}_base" in rows]
    titles = ["data", "backbone", "loss", *(f"{metric.title} {metric.unit}" for metric in shown)]
    rows = rows.astype({"setting": object, "tcm": object}).fillna({"setting": "", "tcm": ""})  # what a csv leaves empty
    rows = rows.assign(tcm=tcm_kinds(rows))
    body = [
        [*names[:3], *(str(cell(row, metric)) for metric in shown)]
        for row, names in zip(rows.to_dict("records"), row_names(rows), strict=True)
    ]
    kinds = dict(list(rows.groupby("tcm", sort=False)))
    sentences = [
        f"- {f'{kind}: ' if len(kinds) > 1 else ''}{counted(of_kind, metric)}."
        for kind, of_kind in kinds.items()
        if kind
        for metric in shown
    ]
    return "\n".join([pipe_table(titles, body, left=3), "", *sentences])
