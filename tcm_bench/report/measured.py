"""Evaluations of whatever was named, each in the way that its run asks for unless told otherwise."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tcm_bench.data.datasets.vectors import VectorSet, vector_set
from tcm_bench.evaluation.evaluate import Evaluation, evaluate
from tcm_bench.evaluation.files import EvaluationRecord, read_evaluation
from tcm_bench.evaluation.settings import Settings
from tcm_bench.report.source import Source
from tcm_bench.results.ledger import CONFIG, EVALUATION, RESULT, read_result


def settings_of(source: Source) -> tuple[Settings, Path] | None:
    """How a run or a stored evaluation was measured, and the file that says so; None for a file of vectors.

    Raises:
        ValueError: If that file is damaged.
    """
    if source.kind == "vectors":
        return None
    if source.kind == "evaluation":
        stored = read_evaluation(source.path)
        return Settings.of(stored.numbers["settings"] | {"ks": stored.per_class.ks}), source.path / EVALUATION
    file = source.path / CONFIG
    if file.is_file():
        try:
            metrics = OmegaConf.to_container(OmegaConf.load(file).metrics)
            nodes = [node for node in dict(metrics).values() if "far_bounds" in node]  # type: ignore[arg-type]
            return (Settings.of(nodes[0]), file) if nodes else None
        except (OSError, YAMLError, OmegaConfBaseException, AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file} is not the configuration of a run ({str(error).partition(chr(10))[0]}); "
                "give the run's command again with force=true"
            ) from error
    row = read_result(source.path)
    return (Settings.of(row.threshold), source.path / RESULT) if row else None


def shared_settings(sources: Sequence[Source]) -> Settings:
    """How two things are measured to be compared: as the first that says how, a file of vectors saying nothing."""
    return next((found[0] for source in sources if (found := settings_of(source))), Settings())


def evaluated(
    file: Path, settings: Settings, *, labels_file: Path | None = None, device: torch.device | str = "cpu"
) -> tuple[Evaluation, VectorSet]:
    """A file of vectors, measured.

    Raises:
        ValueError: With the file's name, if it cannot be read or evaluated.
    """
    given = vector_set(file, labels_file)
    assert given.labels is not None
    roles = {name: role.to(device) for name in ("query", "gallery") if (role := getattr(given, name)) is not None}
    try:
        return evaluate(given.vectors.to(device), given.labels.to(device), settings, **roles), given
    except ValueError as error:  # of the vectors: settings were checked when they were made
        raise ValueError(f"{file}: {error}") from error


def record(source: Source, settings: Settings) -> EvaluationRecord:
    """The evaluation that a folder holds, or that of a file of vectors in this way.

    Raises:
        ValueError: If there is none and none can be made.
    """
    if source.kind != "vectors" and (source.path / EVALUATION).is_file():
        return read_evaluation(source.path)
    file = source.vectors()
    evaluation, given = evaluated(file, settings)
    return EvaluationRecord.of(evaluation, file, np.asarray(given.classes))
