"""The comparison table: does TCM make one threshold fit all classes, and what does it do to retrieval?"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from tcm_bench.ledger import Result, write_atomic
from tcm_bench.report.fold import SETTINGS, Comparisons, fold

DASH = "–"
ENOUGH_SEEDS = 3  # for a claim about OPIS
WIDE = 118  # columns a terminal needs for one line per comparison
BENCHMARKS = {"cub": "CUB-200-2011", "cars": "Cars-196", "sop": "SOP", "inat": "iNaturalist-2018"}
ARTICLE = (  # arXiv 2307.04047, what its authors say in public; see the README for where
    "OPIS fell in 16 of 16, by up to 77.3 %",
    "R@1 rose in 14 of 16, between -0.2 and +3.6 points",
)


class Metric(NamedTuple):
    """How a metric is shown."""

    column: str
    title: str
    scale: float
    relative: bool  # change in percent of the base; otherwise in the unit shown
    higher_is_better: bool


RECALL = Metric("recall_at_1", "R@1 %", 100, relative=False, higher_is_better=True)
OPIS = Metric("opis", "OPIS e-3", 1000, relative=True, higher_is_better=False)
WORST = Metric("opis_10pct", "10%-OPIS e-3", 1000, relative=True, higher_is_better=False)
SHOWN = (RECALL, OPIS, WORST)


class Cell(NamedTuple):
    """Both values, the change from one to the other, and whether it is for the better."""

    values: str
    change: str = ""
    better: bool | None = None

    def __str__(self) -> str:
        """Both parts on one line."""
        return f"{self.values} {self.change}".rstrip()


def write_comparison(
    results: Iterable[Result], folder: Path, name: str, planned: Sequence[Mapping[str, Any]] = ()
) -> list[Path]:
    """Write the comparisons among `results` as `<name>.csv` (fractions) and `<name>.md` (for people).

    Args:
        results: Rows of runs, whatever their status.
        folder: Where to write; made if need be.
        name: Stem of both files.
        planned: All runs that should exist, see `tcm_bench.report.fold.fold`.

    Returns:
        The two paths, csv first.

    Raises:
        ValueError: If two runs differ in something that their choices do not name.
    """
    found = fold(results, planned)
    paths = [folder / f"{name}.csv", folder / f"{name}.md"]
    write_atomic(paths[0], found.rows.to_csv(index=False, lineterminator="\n"))
    write_atomic(paths[1], markdown(found, name))
    return paths


def comparison_table(
    results: Iterable[Result], planned: Sequence[Mapping[str, Any]] = (), *, width: int = 120
) -> Table:
    """The table on unseen classes for a terminal of `width` columns, at least 80; see `write_comparison`."""
    found = fold(results, planned)
    claims = [ours for ours, _ in _claims(found.rows)]
    caption = "\n".join([*claims, *_warnings(found), *found.notes])
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.caption, table.caption_justify, table.caption_style = Text(caption), "left", "none"
    narrow = width < WIDE
    for title in ("data", "backbone\nloss") if narrow else ("data", "backbone", "loss"):
        table.add_column(title, overflow="fold")
    for title in ("seeds", "before", *(f"{metric.title}\nbase → TCM" for metric in SHOWN)):
        table.add_column(title, justify="right")
    for cells in _body(found.rows):
        table.add_row(*_terminal_cells(cells, narrow))
    if len(found.rows):
        table.add_section()
        table.add_row(*_terminal_cells(_mean_row(found.rows), narrow), style="bold")
    return table


def markdown(found: Comparisons, name: str) -> str:
    """The whole report as GitHub-flavoured Markdown."""
    rows = found.rows
    parts = [
        f"# TCM against its baseline: `{name}`",
        _preamble(rows),
        *(f"**Warning:** {text}" for text in _warnings(found)),
        "## Claims",
        _pipe_table(
            ("here, on unseen classes", "the article, on its 16 comparisons"),
            [(ours, theirs) for ours, theirs in _claims(rows)],
        ),
        "## Unseen classes",
        _measured_table(rows, ""),
        _legend(rows),
        "## Seen classes",
        "The same metrics on training classes: does the loss do to its own pairs what it is made for?",
        _measured_table(rows, "_seen"),
    ]
    if _has_intervals(rows):
        parts += [
            "## Paired differences",
            "Mean over the seeds of TCM minus base with its 95 % t interval; R@1 in points, OPIS x 1e-3.",
            _interval_table(rows),
        ]
    parts += ["## Settings", _settings(found)]
    if found.notes:
        parts += [
            "## Runs that are not in the tables, or not in full",
            "\n".join(f"- {n}" for n in found.notes),
        ]
    return "\n\n".join(parts) + "\n"


def _preamble(rows: pd.DataFrame) -> str:
    named = list(dict.fromkeys(rows["data"]))
    foreign = [name for name in named if name not in BENCHMARKS]
    lines = [
        "Each row is one comparison: the same data, backbone, base loss and seeds, trained without TCM "
        "(base) and with it. R@1 is leave-one-out retrieval. OPIS is how far the classes' utility curves "
        "spread around their mean over the calibration range, 10%-OPIS how far the worst tenth of the "
        "classes lies from the rest: lower is better."
    ]
    if foreign:
        verb = "is none" if len(foreign) == 1 else "are none"
        lines.append(
            f"**Not the article's tables:** {_listed(foreign)} {verb} of its benchmarks "
            f"({_listed(list(BENCHMARKS.values()))}). A miniature asks whether the effect shows, not how "
            "large it is there."
        )
    if not (rows["seeds"] >= ENOUGH_SEEDS).all():
        lines.append(
            f"**Fewer than {ENOUGH_SEEDS} seeds:** between training seeds OPIS was seen to vary by about 25 % "
            f"(coefficient of variation), so single differences are observations; add `'seed=range(0,{ENOUGH_SEEDS})'`."
        )
    return "\n\n".join(lines)


def _measured_table(rows: pd.DataFrame, suffix: str) -> str:
    titles = ["data", "backbone", "loss", "seeds", *(["R@1 % before"] if not suffix else [])]
    titles += [f"{metric.title} base → TCM" for metric in SHOWN]
    body = [[str(cell) for cell in cells] for cells in _body(rows, suffix)]
    if len(rows):
        body.append([f"**{cell}**" if str(cell) else "" for cell in _mean_row(rows, suffix)])
    return _pipe_table(titles, body, left=3)


def _body(rows: pd.DataFrame, suffix: str = "") -> list[list[str | Cell]]:
    body = []
    for row, names in zip(rows.to_dict("records"), _names(rows), strict=True):
        cells: list[str | Cell] = [*names]
        if not suffix:
            cells.append(_number(row["recall_at_1_before"], RECALL))
        body.append(cells + [_cell(row, metric, suffix) for metric in SHOWN])
    return body


def _names(rows: pd.DataFrame) -> list[list[str]]:
    """First four cells of each row; the loss says which TCM it is with if there are several."""
    several = rows.loc[rows["tcm"] != "", "tcm"].nunique() > 1
    variants = [f" ({name})" if several and name else "" for name in rows["tcm"]]
    columns = (rows["data"], rows["backbone"], rows["loss"] + variants, rows["seeds"].astype(str))
    return [list(names) for names in zip(*columns, strict=True)]


def _mean_row(rows: pd.DataFrame, suffix: str = "") -> list[str | Cell]:
    """Means of the columns over the rows that have both arms; the change is that of the means."""
    means: dict[str, Any] = {"recall_at_1_before": rows["recall_at_1_before"].mean()}
    for metric in SHOWN:
        columns = [f"{metric.column}{suffix}_{arm}" for arm in ("base", "tcm")]
        means |= rows[columns].dropna().mean().to_dict()
    cells: list[str | Cell] = ["mean", "", "", ""]
    if not suffix:
        cells.append(_number(means["recall_at_1_before"], RECALL))
    return cells + [_cell(means, metric, suffix) for metric in SHOWN]


def _cell(row: Mapping[str, Any], metric: Metric, suffix: str) -> Cell:
    column = f"{metric.column}{suffix}"
    base, tcm = row[f"{column}_base"], row[f"{column}_tcm"]
    if math.isnan(base) and math.isnan(tcm):
        return Cell(DASH)
    values = f"{_number(base, metric)} → {_number(tcm, metric)}"
    if math.isnan(base) or math.isnan(tcm):
        return Cell(values)
    low, high = row.get(f"{column}_change_low", math.nan), row.get(f"{column}_change_high", math.nan)
    sure = "*" if low > 0 or high < 0 else ""
    better = None if tcm == base else (tcm > base) is metric.higher_is_better
    return Cell(values, f"{_change(base, tcm, metric)}{sure}", better)


def _change(base: float, tcm: float, metric: Metric) -> str:
    arrow = "↑" if tcm > base else "↓" if tcm < base else "="
    if metric.relative:
        return f"{arrow} {100 * (tcm / base - 1):+.1f}%" if base else arrow
    return f"{arrow} {metric.scale * (tcm - base):+.1f}"


def _number(value: float, metric: Metric) -> str:
    return DASH if math.isnan(value) else f"{metric.scale * value:.1f}"


def _claims(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """What the rows say of OPIS and R@1, each beside what the article says."""
    return [
        (_count(rows, OPIS, "fell", "%"), ARTICLE[0]),
        (_count(rows, WORST, "fell", "%"), DASH),
        (_count(rows, RECALL, "rose", "points"), ARTICLE[1]),
    ]


def _count(rows: pd.DataFrame, metric: Metric, verb: str, unit: str) -> str:
    base, tcm = rows[f"{metric.column}_base"], rows[f"{metric.column}_tcm"]
    change = (tcm - base).dropna()
    improved = (change > 0) if metric.higher_is_better else (change < 0)
    shown = (100 * change / base[base != 0] if metric.relative else metric.scale * change).dropna()
    text = f"{metric.title.split()[0]} {verb} in {improved.sum()} of {len(rows)}"
    if len(change) < len(rows):
        text += f" ({len(rows) - len(change)} without a value)"
    if len(shown):
        text += f", between {shown.min():+.1f} and {shown.max():+.1f} {unit}, mean {shown.mean():+.1f}"
    if _has_intervals(rows):
        bound = rows[f"{metric.column}_change_{'low' if metric.higher_is_better else 'high'}"]
        sure = (bound > 0) if metric.higher_is_better else (bound < 0)
        text += f"; in {sure.sum()} of them the 95 % interval leaves out 0"
    return text


def _legend(rows: pd.DataFrame) -> str:
    text = (
        "↑ ↓ the change that TCM makes, R@1 in points, OPIS in percent of the base; arrows are taken before "
        f"rounding. `mean` averages the rows that have both arms. {DASH} no value."
    )
    return text + (" * the 95 % interval of the paired difference leaves out 0." if _has_intervals(rows) else "")


def _has_intervals(rows: pd.DataFrame) -> bool:
    return bool((rows["seeds"] > 1).any())


def _interval_table(rows: pd.DataFrame) -> str:
    body = []
    for row, names in zip(rows.to_dict("records"), _names(rows), strict=True):
        cells = [*names]
        for metric in SHOWN:
            change, low, high = (
                metric.scale * value
                for value in (
                    row[f"{metric.column}_tcm"] - row[f"{metric.column}_base"],
                    row[f"{metric.column}_change_low"],
                    row[f"{metric.column}_change_high"],
                )
            )
            cells.append(DASH if math.isnan(low) else f"{change:+.2f} [{low:+.2f}, {high:+.2f}]")
        body.append(cells)
    return _pipe_table(["data", "backbone", "loss", "seeds", *(m.title for m in SHOWN)], body, left=3)


def _settings(found: Comparisons) -> str:
    lines = [f"- {_setting(setting)}" for setting in found.settings] or ["- no finished run, so none is known"]
    if found.commits:
        lines.append(
            f"- code: {', '.join(found.commits)}" + (" (+ local changes)" if "+" in str(found.commits) else "")
        )
    return "\n".join(lines)


def _setting(setting: Mapping[str, Any]) -> str:
    text = ", ".join(f"{name} {value}" for name, value in setting.items())
    return f"OPIS: {text}; the calibration range is found anew for each run"


def _warnings(found: Comparisons) -> list[str]:
    if len(found.settings) < 2:
        return []
    differ = [name for name in SETTINGS if len({str(s.get(name)) for s in found.settings}) > 1]
    return [f"the runs measured OPIS with different settings ({_listed(differ)}) and cannot be compared"]


def _pipe_table(titles: Sequence[str], body: Sequence[Sequence[str]], left: int = 99) -> str:
    rule = ["---" if i < left else "---:" for i in range(len(titles))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rule, *body))


def _terminal_cells(cells: Sequence[str | Cell], narrow: bool) -> list[Text]:
    """Improvements green, the contrary red; in a narrow terminal a row takes two lines."""
    colors = {True: "green", False: "red", None: ""}
    between = "\n" if narrow else " "
    shown = []
    for cell in cells:
        text = Text(cell.values if isinstance(cell, Cell) else cell)
        if isinstance(cell, Cell) and cell.change:
            text.append(between).append(cell.change, colors[cell.better])
        shown.append(text)
    if narrow:
        shown[1:3] = [Text("\n").join(shown[1:3])]
    return shown


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
