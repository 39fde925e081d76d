"""What the page shows: from rows, from what runs have stored and, where they are at hand, from their images."""

import base64
import contextlib
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from safetensors import safe_open

from tcm_bench.data.datasets.vectors import VectorSet, vector_set
from tcm_bench.data.table import ImageTable
from tcm_bench.evaluation.bootstrap import p_value
from tcm_bench.evaluation.class_curves import ClassCurves, class_curves
from tcm_bench.evaluation.deployment import Deployment, deploy
from tcm_bench.evaluation.settings import Settings
from tcm_bench.files import write_atomic
from tcm_bench.report.claims import claims, summed_up
from tcm_bench.report.comparison import (
    BEFORE,
    BENCHMARKS,
    DASH,
    ENOUGH_SEEDS,
    FEW_SEEDS,
    cautions,
    counted,
    has_few_seeds,
)
from tcm_bench.report.deployed import deployment_figure, recorded
from tcm_bench.report.figures import (
    ARMS,
    curves_figure,
    mean_utilities,
    ranges_figure,
    svg,
    training_figure,
    write_figure,
)
from tcm_bench.report.fold import Comparisons, Pair, fold, row_names
from tcm_bench.report.pareto import pareto_figure
from tcm_bench.report.scores import Score, arrow, score
from tcm_bench.report.sheets import sheet, telling_queries
from tcm_bench.results.ledger import EMBEDDINGS, HISTORY, Result, Run

WANTED = (0.01, 0.001)  # false accept rates for which a threshold is chosen
MOST_PX = 56  # of an image on a sheet
WORST_CLASSES, IMAGES_OF_CLASS = 5, 6
MOST_CLASSES = 20_000  # rows of all tables of classes: of more, each comparison's worst


class Cell(NamedTuple):
    """A score in the table: with TCM, and how it changed."""

    value: str
    change: str
    better: bool | None
    detail: str
    sort: float | None


@dataclass
class Section:
    """One comparison in detail, by its first seed."""

    anchor: str
    title: str
    seed: str
    figures: list[tuple[Markup, str, str]] = field(default_factory=list)  # SVG, title, caption
    in_use: list[dict[str, Any]] = field(default_factory=list)
    sheets: list[dict[str, Any]] = field(default_factory=list)
    worst: list[dict[str, Any]] = field(default_factory=list)
    classes: Markup | None = None  # at most so many as a table has, the worst first
    num_classes: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Arm:
    """What a run has stored, as far as it is there."""

    run: Result
    vectors: VectorSet
    indices: np.ndarray
    curves: ClassCurves
    deployments: dict[float, Deployment]

    @property
    def settings(self) -> Settings:
        return Settings.of(self.run.threshold)

    @property
    def mean_utilities(self) -> np.ndarray:
        return mean_utilities(self.curves, self.settings)

    @property
    def roles(self) -> dict[str, Any]:
        return {"query": self.vectors.query, "gallery": self.vectors.gallery}


def write_page(
    results: Iterable[Result],
    output_dir: Path,
    name: str,
    planned: Sequence[Run] = (),
    *,
    pictures: Callable[[Path], ImageTable | None] = lambda run_dir: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Write the report of a sweep: `<name>.html`, and its figures as SVG and PNG in the folder `<name>`.

    Args:
        results: Rows of runs, whatever their status.
        output_dir: Holds `runs/`; the files go to `report/`.
        name: Of the sweep.
        planned: All runs that should exist.
        pictures: From a run's folder to the images it was tested on; None where there are none or they are not here.
        on_progress: Called with comparisons done and their total.

    Returns:
        The page, and the figures.
    """
    rows = list(results)
    found = fold(rows, planned)
    folder = output_dir / "report"
    written: list[Path] = []

    def shown(figure: Any, stem: str, alt: str) -> Markup:
        written.extend(write_figure(figure, folder / name / stem))
        return _described(svg(figure, stem), alt)

    names = _titles(found)
    judged = claims(found, rows)
    overview = _overview(found, names, shown) if len(found.rows) else []
    sections = []
    most_classes = MOST_CLASSES // max(sum(map(bool, found.pairs)), 1)
    for number, (title, of_row) in enumerate(zip(names, found.pairs, strict=True)):
        on_progress(number, len(names))
        if of_row:
            section = _section(_anchor(number), title, of_row[0], output_dir, most_classes, pictures, shown)
            sections.append(section)
    on_progress(len(names), len(names))
    environment = Environment(
        loader=PackageLoader("tcm_bench.report", "page"),
        autoescape=select_autoescape(["jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html.jinja").render(
        name=name,
        verdict=summed_up(judged),
        lead=[counted(found.rows, score(name)) for name in found.scores[1::-1]],
        claims=judged,
        foreign=[data for data in dict.fromkeys(found.rows["data"]) if data not in BENCHMARKS],
        warnings=[
            *[f"Fewer than {ENOUGH_SEEDS} seeds: {FEW_SEEDS}."] * has_few_seeds(found.rows),
            *(f"{text[0].upper()}{text[1:]}." for text in cautions(found)),
        ],
        counts={
            "finished": sum(row.status == "finished" for row in rows),
            "all": len({*(r.run_id for r in (*planned, *rows))}),
        },
        scores=[score(metric) for metric in found.scores],
        table=_table(found),
        overview=overview,
        sections=sections,
        most_classes=most_classes,
        notes=found.notes,
        settings=found.settings,
        runs=_provenance(rows, planned),
        style=Markup(_asset("page.css")),
        script=Markup(_asset("page.js")),
    )
    path = folder / f"{name}.html"
    write_atomic(path, page)
    return [path, *written]


def _overview(
    found: Comparisons, names: Sequence[str], shown: Callable[[Any, str, str], Markup]
) -> list[tuple[Markup, str, str]]:
    """Figures of all comparisons together: SVG, title, caption."""
    drawn = shown(
        ranges_figure(names, found.pairs), "ranges", "OPIS of each comparison in each range of false accept rates"
    )
    figures = [
        (
            drawn,
            "OPIS by range of the false accept rate",
            "Each line joins a network without TCM and with it; filled: as measured, hollow: less the noise of few "
            "images a class. Further left is more consistent.",
        )
    ]
    with contextlib.suppress(ValueError):  # no comparison has both arms
        drawn = shown(pareto_figure(found.rows), "pareto", "R@1 against OPIS of each network, without TCM and with it")
        figures.append(
            (
                drawn,
                "Accuracy against consistency",
                "An arrow leads from each network without TCM to the same with it; down and to the right is better. "
                "Steps: the Pareto front of each arm, beyond which none of its networks has more R@1 and less OPIS.",
            )
        )
    return figures


def _asset(file: str) -> str:
    return (files("tcm_bench.report") / "page" / file).read_text(encoding="utf-8")


def _titles(found: Comparisons) -> list[str]:
    """What each row is called; two of the same names and settings differ in TCM."""
    titles = [" ".join(names[:3]) for names in row_names(found.rows)]
    twice = {title for title in titles if titles.count(title) > 1}
    return [
        f"{title} {comparison}" if title in twice else title
        for title, comparison in zip(titles, found.rows["comparison_id"], strict=True)
    ]


def _table(found: Comparisons) -> list[dict[str, Any]]:
    return [
        {
            "names": names[:3],
            "seeds": names[3],
            "anchor": _anchor(number) if runs else None,
            "before": _before(row),
            "cells": [_cell(row, score(metric)) for metric in found.scores],
        }
        for number, (row, names, runs) in enumerate(
            zip(found.rows.to_dict("records"), row_names(found.rows), found.pairs, strict=True)
        )
    ]


def _before(row: Mapping[str, Any]) -> str:
    value = BEFORE.scale * row["recall_at_1_before"]
    return DASH if math.isnan(value) else f"{value:.1f}"


def _anchor(number: int) -> str:
    """Of the section of a row, and of its figures."""
    return f"c{number + 1}"


def _cell(row: Mapping[str, Any], metric: Score) -> Cell:
    base, tcm = row[f"{metric.name}_base"], row[f"{metric.name}_tcm"]
    low, high = (metric.scale * row[f"{metric.name}_change_{end}"] for end in ("low", "high"))
    if math.isnan(tcm):
        told = "undefined with TCM" if row["seeds"] else "no seed has a finished run of both arms"
        return Cell(DASH, "", None, told, None)
    value, change = metric.scale * tcm, metric.scale * (tcm - base)
    if math.isnan(change):
        return Cell(f"{value:.1f}", "", None, "undefined without TCM", value)
    detail = f"without TCM {metric.scale * base:.1f}"
    if metric.relative and base:
        detail += f" ({100 * (tcm / base - 1):+.0f} %)"
    if not math.isnan(low):
        p = p_value((change, low, high), int(row["seeds"]))
        detail += f"; 95 % interval of the change {low:+.2f} to {high:+.2f}, paired p = {p:.2g}"
    return Cell(f"{value:.1f}", f"{arrow(change)} {abs(change):.1f}", metric.is_better(change), detail, value)


def _section(
    anchor: str,
    title: str,
    pair: Pair,
    output_dir: Path,
    most_classes: int,
    pictures: Callable[[Path], ImageTable | None],
    shown: Callable[[Any, str, str], Markup],
) -> Section:
    section = Section(anchor, title, str(pair[0].choices.get("seed", 0)))
    folders = [output_dir / "runs" / run.run_id for run in pair]
    histories = {arm: _history(folder) for arm, folder in zip(ARMS, folders, strict=True)}
    arms: list[_Arm] = []
    for run, folder in zip(pair, folders, strict=True):
        try:
            arms.append(_stored(run, folder))
        except ValueError as error:
            section.notes.append(f"{run.run_id}: {error}")
    if len(arms) == 2:
        sides = dict(zip(ARMS, arms, strict=True))
        figure = curves_figure(
            {name: arm.curves for name, arm in sides.items()},
            {name: arm.run.metrics for name, arm in sides.items()},
            arms[0].settings,
        )
        section.figures.append(
            (
                shown(figure, f"{anchor}-curves", f"Utility curves of the classes of {title}, without TCM and with it"),
                "Utility of the classes",
                "A class a line. One threshold fits all where the lines lie together. Point at a line for its class.",
            )
        )
        deployments = {name: arm.deployments[WANTED[0]] for name, arm in sides.items() if WANTED[0] in arm.deployments}
        if deployments:
            figure = deployment_figure(deployments)
            section.figures.append(
                (
                    shown(figure, f"{anchor}-use", f"Error rates of the classes of {title} under one threshold"),
                    f"In use: one threshold for FAR {100 * WANTED[0]:g} %",
                    "Chosen on half of the classes; of the others, the share whose own rate is at most so high.",
                )
            )
        section.in_use = [
            {"arm": name, **recorded(found)}
            for wanted in WANTED
            for name, arm in sides.items()
            if (found := arm.deployments.get(wanted))
        ]
        if _are_alike(*arms):
            table = _images(section, pictures, folders[0], arms[0])
            if table is not None:
                try:
                    _add_images(section, sides, table)
                except (OSError, ValueError) as error:  # what Pillow raises of a file that is lost or damaged
                    section.sheets, section.worst = [], []
                    section.notes.append(f"no images: {error}")
            section.classes = _classes(sides, most_classes, table)
            section.num_classes = len(arms[0].curves.labels)
        else:
            section.notes.append(
                "its two networks were tested on different data, so their images and classes are not compared"
            )
    training = training_figure(histories)
    if training:
        section.figures.append(
            (
                shown(training, f"{anchor}-training", f"What was logged while {title} was trained"),
                "Training",
                "By epoch.",
            )
        )
    return section


def _are_alike(base: _Arm, tcm: _Arm) -> bool:
    """Whether a row is the same image of the same class in both."""
    assert base.vectors.labels is not None
    assert tcm.vectors.labels is not None
    return (
        torch.equal(base.vectors.labels, tcm.vectors.labels)
        and np.array_equal(base.vectors.classes, tcm.vectors.classes)
        and np.array_equal(base.indices, tcm.indices)
    )


def _images(
    section: Section, pictures: Callable[[Path], ImageTable | None], folder: Path, arm: _Arm
) -> ImageTable | None:
    """The images that a run was tested on, if they are here and are these."""
    try:
        table = pictures(folder)
    except (OSError, ValueError) as error:
        section.notes.append(f"no images: {error}")
        return None
    if table is None:
        section.notes.append("its images are not here, so there are no sheets of them")
    elif len(table) <= int(arm.indices.max()):
        section.notes.append(f"no images: there are {len(table)} where the run was tested on more")
        return None
    return table


def _history(folder: Path) -> pd.DataFrame | None:
    try:
        return pd.read_csv(folder / HISTORY)
    except (OSError, ValueError):  # pandas' own errors are ValueErrors
        return None


def _stored(run: Result, folder: Path) -> _Arm:
    """What a run has stored, measured for the page.

    Raises:
        ValueError: If its embeddings are not there.
    """
    file = folder / EMBEDDINGS
    if not file.is_file():
        raise ValueError(f"its embeddings are not here, so it has no curves ({EMBEDDINGS})")
    given = vector_set(file)
    assert given.labels is not None
    rows, labels, query, gallery = given.vectors, given.labels, given.query, given.gallery
    settings = Settings.of(run.threshold)
    bounds = min(low for low, _ in settings.ranges), max(high for _, high in settings.ranges)
    curves = class_curves(rows, labels, bounds=bounds, c=settings.c, query=query, gallery=gallery)
    deployments = {}
    for wanted in WANTED:
        try:
            deployments[wanted] = deploy(rows, labels, rate="far", wanted=wanted, query=query, gallery=gallery)
        except ValueError:  # too few pairs to see such a rate
            continue
    with safe_open(file, "numpy") as stored:  # of which the vectors have been read
        indices = stored.get_tensor("indices")
    return _Arm(run, given, indices, curves, deployments)


def _add_images(section: Section, sides: Mapping[str, _Arm], table: ImageTable) -> None:
    """Retrieval sheets and the worst classes."""
    base = sides[ARMS[0]]
    assert base.vectors.labels is not None
    threshold = base.deployments[WANTED[0]].threshold if WANTED[0] in base.deployments else None
    queries = telling_queries(base.vectors.vectors, base.vectors.labels, threshold, **base.roles)

    def name(arm: _Arm, row: int) -> str:
        assert arm.vectors.labels is not None
        return str(table.class_names[int(arm.vectors.classes[arm.vectors.labels[row]])])

    of_arms: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for title, arm in sides.items():
        assert arm.vectors.labels is not None
        found = sheet(arm.vectors.vectors, arm.vectors.labels, queries, gallery=arm.vectors.gallery)
        of_arms[title] = {
            one.query: [
                {
                    "image": _picture(table, arm, row),
                    "name": name(arm, row),
                    "cosine": f"{cosine:.2f}",
                    "right": right,
                }
                for row, cosine, right in zip(one.neighbors, one.cosines, one.right, strict=True)
            ]
            for one in found
        }
    for kind, row in queries:
        section.sheets.append(
            {
                "kind": kind,
                "image": _picture(table, base, row),
                "name": name(base, row),
                "arms": {title: of_queries[row] for title, of_queries in of_arms.items()},
            }
        )
    means = {title: arm.mean_utilities for title, arm in sides.items()}
    for place in np.argsort(means[ARMS[0]], kind="stable")[:WORST_CLASSES]:
        label = int(base.curves.labels[place])
        rows = (base.vectors.labels == label).nonzero()[:IMAGES_OF_CLASS, 0].tolist()
        section.worst.append(
            {
                "name": name(base, rows[0]),
                "utilities": {title: f"{100 * values[place]:.0f} %" for title, values in means.items()},
                "images": [_picture(table, base, row) for row in rows],
            }
        )


def _picture(table: ImageTable, arm: _Arm, row: int) -> str:
    """An image as a data URI, small."""
    image = table.image(int(arm.indices[row])).convert("RGB")
    image.thumbnail((MOST_PX, MOST_PX))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _classes(sides: Mapping[str, _Arm], most: int, table: ImageTable | None) -> Markup | None:
    """The table of classes as JSON: label, name, utility of each arm, and their rates under the threshold."""
    (_, base), (_, tcm) = sides.items()
    if not np.array_equal(base.curves.labels, tcm.curves.labels):
        return None
    labels = base.curves.labels.tolist()
    names = [str(base.vectors.classes[label]) for label in labels]
    if table is not None:
        names = [str(table.class_names[int(name)]) for name in names]
    utilities = [arm.mean_utilities for arm in (base, tcm)]
    order = np.argsort(utilities[0], kind="stable")[:most]
    rows = [[labels[n], names[n], *(round(100 * float(values[n]), 1) for values in utilities)] for n in order]
    # Within a script nothing may look like its end.
    return Markup(json.dumps(rows, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def _described(text: str, alt: str) -> Markup:
    """An SVG that says what it shows."""
    return Markup(text.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(alt), 1))


def _provenance(rows: Sequence[Result], planned: Sequence[Run]) -> list[dict[str, Any]]:
    known = {row.run_id: row for row in rows}
    found = []
    for run in {one.run_id: one for one in (*planned, *rows)}.values():
        row = known.get(run.run_id)
        sha = (row.git.get("sha") or "")[:10] if row else ""
        found.append(
            {
                "run_id": run.run_id,
                "choices": " ".join(str(value) for value in run.choices.values()),
                "status": row.status if row else "absent",
                "started": row.started if row else "",
                "seconds": f"{row.wall_s:.0f}" if row else "",
                "commit": f"{sha}{'+' if row and row.git.get('dirty') else ''}",
                "data": (row.data_hash or "")[:10] if row else "",
                "torch": row.versions.get("torch", "") if row else "",
                "command": run.command or "",
            }
        )
    return found
