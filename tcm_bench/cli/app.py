"""The command line beside training. A sub-command more: a function here under its name, or a group of its own."""

from typing import Any

import typer
from typer.core import TyperGroup

from tcm_bench.cli import data, embed, evaluate, plan, report, runs, status, threshold, wandb, weights
from tcm_bench.process import end_interrupted


class OneSentence(TyperGroup):
    """Ends what a user can put right with one sentence and status 1, in every sub-command."""

    def invoke(self, ctx: Any) -> Any:
        """Run the sub-command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            end_interrupted("interrupted")
        except (ValueError, OSError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    name="tcm-bench",
    cls=OneSentence,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Look at what has been trained, and at what to train on. Training itself is `python train.py --help`.",
)
app.command()(plan.plan)
app.command()(status.status)
app.command()(report.report)
app.command()(report.choose)
app.command()(report.curves)
app.command()(report.circle)
app.command()(report.pareto)
app.command()(report.replay)
app.command()(evaluate.evaluate)
app.command()(evaluate.compare)
app.command()(threshold.threshold)
app.command()(embed.embed)
app.add_typer(data.data_app)
app.add_typer(weights.weights_app)
app.add_typer(runs.runs_app)
app.add_typer(wandb.wandb_app)
