"""A small sweep and its report page, as users make them."""

from pathlib import Path

from answers import answer
from command_line import tcm_bench
from photographs import TINY, write_photographs
from vectors import command, head, write_vectors

from tcm_bench.runs import experiment  # noqa: F401 - here once, instead of in every fork
from tcm_bench.runs.run import main


def write_sweeps(output: Path, given: Path) -> Path:
    """Two comparisons: a network on photographs with two seeds (sweep `images`), a head on vectors (`vectors`)."""
    photographs = write_photographs(given / "photographs", classes=24, pictures=9)
    arms = ["tcm=none,paper", "machine.threads=1", "model.freeze=none"]
    images = ["data=folder", f"data.root={photographs}", *TINY, "model/backbone=resnet_small", "seed=0,1"]
    for words in ([*images, "sweep_name=images"], [*head(write_vectors(given)), "sweep_name=vectors"]):
        ran = answer(main, [*command(output, *arms, *words)[2:], "-m"])
        assert ran.status == 0, ran.stderr
    return output


def write_page(output: Path, *sweeps: str) -> Path:
    """The page of these sweeps."""
    done = tcm_bench("report", *sweeps, "--output-dir", output)
    assert done.exit_code == 0, done.output
    return output / "report" / f"{'-'.join(sweeps)}.html"
