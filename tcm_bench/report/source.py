"""What a person names to be measured: a run, an evaluation on disk, or a file of vectors. One way for all commands."""

from pathlib import Path
from typing import Literal, NamedTuple

from tcm_bench.results.ledger import CONFIG, EMBEDDINGS, EVALUATION, RESULT, RUNNING, WEIGHTS

KINDS = (
    "a run (its id, the start of its id, or its folder), a folder that `tcm-bench evaluate --out` wrote, or a file of "
    "vectors (.npz, .safetensors, .npy)"
)


class Source(NamedTuple):
    """What was named.

    Attributes:
        kind: ``run`` and ``evaluation`` are folders, ``vectors`` is a file.
        path: Where it lies.
    """

    kind: Literal["run", "evaluation", "vectors"]
    path: Path

    def vectors(self) -> Path:
        """The file of vectors that it consists of, or that it stored.

        Raises:
            ValueError: If it holds none.
        """
        if self.kind == "vectors":
            return self.path
        file = self.path / EMBEDDINGS
        if self.kind == "evaluation":
            raise ValueError(f"{self.path} holds an evaluation and no vectors; give what it was made from")
        if not file.is_file():
            raise ValueError(
                f"{self.path} holds no {EMBEDDINGS}, which a run stores when it finishes; give the run's command "
                "again, with force=true if it has finished"
            )
        return file


def source(given: str, output_dir: Path) -> Source:
    """What is meant by a word on the command line; see `KINDS`.

    Args:
        given: A path, which comes first, or the id of a run.
        output_dir: Folder that holds ``runs/``.

    Raises:
        ValueError: If there is no such thing, or more than one run is meant.
    """
    path = Path(given)
    if path.is_file():
        part_of = _of_folder(path.parent) if path.name in (CONFIG, EVALUATION, RESULT, WEIGHTS) else None
        return part_of or Source("vectors", path)
    if found := _of_folder(path):
        return found
    if len(path.parts) == 1 and not path.suffix and (_starts(given, output_dir) or not path.is_dir()):
        folder = run_folder(given, output_dir)
        return _of_folder(folder) or Source("run", folder)
    if path.is_dir():
        raise ValueError(f"there is no evaluation in {path}, and it is no run's folder; give {KINDS}")
    raise ValueError(f"there is no file {path}; give {KINDS}")


def run_folder(run: str, output_dir: Path) -> Path:
    """The folder of a run, given its id, the start of its id, or the folder itself.

    Raises:
        ValueError: If no run, or more than one, is meant.
    """
    path = Path(run)
    folder = path.parent if path.is_file() and path.name in (CONFIG, RESULT, WEIGHTS) else path
    if (named := _of_folder(folder)) and named.kind == "run":
        return folder
    started = _starts(run, output_dir)
    if exact := [one for one in started if one.name == run]:
        return exact[0]
    if len(started) == 1:
        return started[0]
    if not started:
        raise ValueError(f"there is no run '{run}' in {output_dir / 'runs'}; `tcm-bench status` lists the runs")
    names = ", ".join(one.name for one in started)
    raise ValueError(f"'{run}' is the start of {len(started)} runs ({names}); give more of it")


def _starts(run: str, output_dir: Path) -> list[Path]:
    return sorted(folder for folder in (output_dir / "runs").glob("*/") if folder.name.startswith(run))


def _of_folder(folder: Path) -> Source | None:
    """What a folder is, by the files in it; None if it is neither, or there is none."""
    held = {name for name in (CONFIG, EMBEDDINGS, EVALUATION, RESULT, RUNNING, WEIGHTS) if (folder / name).is_file()}
    if held == {EVALUATION}:
        return Source("evaluation", folder)
    return Source("run", folder) if held else None
