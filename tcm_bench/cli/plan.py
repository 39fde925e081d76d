"""What a sweep would take: `tcm-bench plan`."""

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from tcm_bench.cli.shared import AsJson, console, duration, tell
from tcm_bench.results.labels import FACTORS

if TYPE_CHECKING:
    from tcm_bench.runs.planning import PlannedRun


def plan(
    sweep: Annotated[str, typer.Argument(help="Of conf/sweep.")],
    words: Annotated[
        list[str] | None, typer.Argument(help="What the sweep would be given beside, e.g. seed=0,1,2.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs side by side; else as the configuration says.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Folder that holds runs/: paths.output_dir.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a sweep would take, before it is started: runs, hours, disk, memory, and what is missing for it."""
    from tcm_bench.runs.planning import sweep_plan

    place = [f"paths.output_dir={output_dir.absolute()}"] if output_dir else []
    found = sweep_plan(sweep, [*(words or ()), *place], jobs)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    table = Table("data", "backbone", "loss", "runs", "done", "each", "", box=None, padding=(0, 2, 0, 0))

    def task(run: "PlannedRun") -> tuple[str, ...]:
        return tuple(str(run.choices[name]) for name in FACTORS)

    for names, of_task in groupby(sorted(found.runs, key=task), key=task):
        runs = list(of_task)
        hours = [run.hours for run in runs if run.hours is not None]
        each = duration(3600 * sum(hours) / len(hours)) if hours else "–"
        done = sum(run.state == "finished" for run in runs)
        table.add_row(*map(Text, [*names, str(len(runs)), str(done), each, runs[0].source]))
    terminal = console()
    terminal.print(table)
    lines = [f"{found.name}: {found.jobs} runs, {found.finished} finished"]
    if found.finished < found.jobs:
        memory = f"; up to {found.memory_gb:g} GB of a GPU" if found.memory_gb else ""
        alone, beside = duration(3600 * found.gpu_hours), duration(3600 * found.wall_hours)
        lines.append(
            f"to do: {alone} of one GPU, or of one process without; {beside} with {found.parallel} at a time; "
            f"{found.disk_gb:.2g} GB of disk{memory}"
        )
    if found.not_known:
        lines.append(f"not in this: {found.not_known} runs like none that has finished, which state no cost")
    lines += [f"missing {kind}: {sentence}" for kind, sentences in found.missing.items() for sentence in sentences]
    tell(terminal, lines)
