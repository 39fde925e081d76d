"""A threshold to deploy: `tcm-bench threshold`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from tcm_bench.cli.shared import AsJson, OutputDir, console, tell
from tcm_bench.evaluation.settings import Cost
from tcm_bench.report.source import KINDS, source

OFF = 0.25  # of the wanted rate: by how much the rate that is reached may differ before that is said


def threshold(
    what: Annotated[str, typer.Argument(metavar="SOURCE", help=f"{KINDS[0].upper()}{KINDS[1:]}.")],
    output_dir: OutputDir,
    far: Annotated[
        float | None, typer.Option(help="Wanted false accept rate, of pairs of two classes, e.g. 0.01.")
    ] = None,
    frr: Annotated[float | None, typer.Option(help="Or: wanted false reject rate, of pairs of one class.")] = None,
    axis: Annotated[Cost, typer.Option(help="What the threshold is a bound of.")] = "similarity",
    share: Annotated[float, typer.Option(help="Of the classes, to choose the threshold by.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the split of the classes.")] = 0,
    labels: Annotated[Path | None, typer.Option(help="Labels of their own file, see `tcm-bench evaluate`.")] = None,
    worst: Annotated[int, typer.Option(min=0, help="How many of the classes that suffer most are named.")] = 10,
    plot: Annotated[Path | None, typer.Option(help="File to draw the classes' rates into: .png, .svg or .pdf.")] = None,
    as_json: AsJson = False,
) -> None:
    """Choose one threshold on some classes for a wanted rate, and say what it does to each of the others."""
    if (far is None) == (frr is None):
        raise ValueError("say which rate is wanted: either --far or --frr, e.g. --far 0.01")
    meant = source(what, output_dir)
    file = meant.vectors()
    from tcm_bench.data.datasets.vectors import vector_set
    from tcm_bench.evaluation.deployment import deploy
    from tcm_bench.report.deployed import recorded, write_deployment_figure

    given = vector_set(file, labels)
    assert given.labels is not None
    try:
        found = deploy(
            given.vectors,
            given.labels,
            rate="frr" if far is None else "far",
            wanted=frr if far is None else far,  # type: ignore[arg-type]
            axis=axis,
            share=share,
            seed=seed,
            query=given.query,
            gallery=given.gallery,
        )
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    numbers = recorded(found, given.classes.tolist())
    if plot:
        write_deployment_figure({meant.path.name: found}, plot)
    if as_json:
        typer.echo(json.dumps({"source": str(file), **numbers}, indent=2))
        return
    terminal = console()
    tell(terminal, _lines(numbers))
    if worst:
        table = Table("class", "FAR %", "FRR %", box=None, padding=(0, 2, 0, 0))
        for one in sorted(numbers["classes"], key=lambda one: -one[numbers["rate"]])[:worst]:
            table.add_row(Text(str(one["label"])), _percent(one["far"]), _percent(one["frr"]))
        terminal.print(f"the classes with the highest {numbers['rate'].upper()}:", highlight=False)
        terminal.print(table)
    if plot:
        tell(terminal, [f"written: {plot}"])


def _lines(numbers: dict[str, Any]) -> list[str]:
    cosine, distance = numbers["cosine"], numbers["distance"]
    bound, other = (
        (f"cosine >= {cosine:.4f}", f"L2 distance <= {distance:.4f}")
        if numbers["axis"] == "similarity"
        else (f"L2 distance <= {distance:.4f}", f"cosine >= {cosine:.4f}")
    )
    wanted, title = f"{100 * numbers['wanted']:g} %", numbers["rate"].upper()
    is_reached = abs(numbers["reached"] - numbers["wanted"]) <= OFF * numbers["wanted"]
    instead = (
        "" if is_reached else f", where it comes to {_percent(numbers['reached'])} %: many pairs are equally alike"
    )
    lines = [
        f"accept a pair at {bound} ({_interval(*numbers['interval'])}), which is {other}",
        f"chosen by {numbers['calibration_classes']} classes for {title} {wanted}{instead}; "
        f"of {numbers['judged_classes']} other classes",
        f"  all pairs: FAR {_percent(numbers['far'])} %, FRR {_percent(numbers['frr'])} %",
    ]
    for rate in ("far", "frr"):
        least, median, most = map(_percent, numbers["quantiles"][rate].values())
        lines.append(f"  {rate.upper()} of a class: median {median} %, middle 90 % of the classes {least} to {most} %")
    lines.append(
        f"  classes whose {title} is more than twice the wanted {wanted}: "
        f"{numbers['beyond_twice']} of {numbers['judged_classes']}"
    )
    return lines


def _interval(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return "so few classes do not show a 95 % interval"
    if low is None:
        return f"95 % interval at most {high:.4f}, its lower end is beyond all pairs"
    if high is None:
        return f"95 % interval at least {low:.4f}, its upper end is beyond all pairs"
    return f"95 % interval {low:.4f} to {high:.4f}"


def _percent(rate: float) -> str:
    """To three digits, however small."""
    return f"{100 * rate:.3g}"
