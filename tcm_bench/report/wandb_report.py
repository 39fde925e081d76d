"""A sweep as a W&B report: its table, accuracy against consistency, and the curves of each pair."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tcm_bench.report.comparison import markdown
from tcm_bench.report.fold import fold
from tcm_bench.results.labels import is_base, labels
from tcm_bench.results.ledger import Result, Run

CURVES = ("train/loss", "val/recall_at_1", "val/opis", "train/hard_positives", "train/hard_negatives")


def save_report(name: str, planned: Sequence[Run], rows: Sequence[Result], project: str, entity: str | None) -> str:
    """Make the report of a sweep on the server, whose runs must have been uploaded for it to show curves.

    Args:
        name: Of the sweep.
        planned: All runs of it.
        rows: Of those that have ended.
        project: W&B project of the runs.
        entity: User or team; None is the key's own.

    Returns:
        Where it is.

    Raises:
        ValueError: If wandb-workspaces is not installed, or the server takes no report.
    """
    try:
        from wandb_workspaces import expr
        from wandb_workspaces.reports import v2 as parts
    except ImportError:
        raise ValueError(
            "a W&B report needs wandb-workspaces: `make setup EXTRAS=cpu,dev,reports` installs it"
        ) from None

    def runsets(runs: Sequence[Run]) -> list[Any]:
        arms = {"without TCM": [run for run in runs if is_base(run)], "with TCM": [r for r in runs if not is_base(r)]}
        return [
            parts.Runset(
                entity=entity or "",
                project=project,
                name=arm,
                filters=[expr.Metric("ID").isin([run.run_id for run in members])],
            )
            for arm, members in arms.items()
            if members
        ]

    compared = defaultdict(list)
    for run, label in zip(planned, labels(planned), strict=True):
        compared[label.task].append(run)
    blocks: list[Any] = [
        parts.MarkdownBlock(markdown(fold(rows, planned), name)),
        parts.H2("Accuracy against consistency"),
        parts.PanelGrid(
            runsets=runsets(planned),
            panels=[parts.ScatterPlot(x=parts.SummaryMetric("recall_at_1"), y=parts.SummaryMetric("opis"))],
        ),
    ]
    for task, runs in compared.items():
        plots: list[Any] = [parts.LinePlot(title=curve, x="epoch", y=[curve]) for curve in CURVES]
        blocks += [parts.H2(task), parts.PanelGrid(runsets=runsets(runs), panels=plots)]
    given = {"entity": entity} if entity else {}  # else the server is asked
    try:
        made = parts.Report(project=project, title=f"TCM: {name}", blocks=blocks, width="fluid", **given)
        return str(made.save().url)
    except Exception as error:  # of the client, in many classes
        raise ValueError(f"the server took no report: {str(error).partition(chr(10))[0]}") from error
