"""One experiment: everything is built from a configuration, trained and tested; what comes of it is `outcome`'s."""

import copy
import logging
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from omegaconf import DictConfig, OmegaConf
from torchmetrics import MetricCollection

from tcm_bench.data.datamodule import RetrievalData
from tcm_bench.data.features import decisive, frozen_features
from tcm_bench.data.redraw import redrawn
from tcm_bench.data.table import FeatureTable, ImageTable, Splits
from tcm_bench.evaluation.metric import EmbeddingMetric, RecallMetric
from tcm_bench.losses.objective import Objective
from tcm_bench.models.embedder import Embedder
from tcm_bench.multiplication import multiply
from tcm_bench.process import is_first_process
from tcm_bench.results.ledger import CHECKPOINT, FEATURES, LAST_EPOCH, PREVIOUS, TEST, write_progress
from tcm_bench.runs.build import ConfigurationError, build
from tcm_bench.runs.debug import few
from tcm_bench.runs.naming import DEBUG
from tcm_bench.runs.outcome import Measured, measured, roles, store
from tcm_bench.runs.watchers import describe, show
from tcm_bench.training.before import RecallBefore
from tcm_bench.training.callbacks import BestWeights, PlainCheckpoints, StepTime
from tcm_bench.training.diverged import DIVERGED
from tcm_bench.training.module import RetrievalModule

log = logging.getLogger(__name__)

HARMLESS = (  # what Lightning says of a run that does as it was told
    ".*does not have many workers.*",
    ".*dataloader is not resumable.*",  # the data module is, and passes over what is done
    ".*LeafSpec.*",
    ".*in eval mode at the start of training.*",  # what is frozen
    ".*logging interval.*",  # terms are logged once an epoch, whatever the interval
    ".*sync_dist=True.*",  # what is logged is the same on every process
    ".*all_gather is deprecated.*",  # Lightning's own call
    ".*`srun` command is available.*",  # a login node of a cluster, say
)


@dataclass(frozen=True)
class Parts:
    """What a run is put together from.

    Attributes:
        data: Loaders over images, or over vectors.
        embedder: The network that is trained.
        identity: Names the backbone and its weights; empty if the data came as vectors.
        start: All that decides the features that training starts from, but for the draw of the classes; empty if the
            data came as vectors.
        test_images: The test set to look at, also where training sees features of it; None if the data came as vectors.
    """

    data: RetrievalData
    embedder: Embedder
    identity: dict[str, Any]
    start: dict[str, Any]
    test_images: ImageTable | None


def fit_and_test(cfg: DictConfig, run_dir: Path, loggers: list[Logger]) -> Measured:
    """Build everything from `cfg`, train it, store the test embeddings and return what was measured.

    Training goes on from the last epoch's checkpoint if the run was killed.

    Args:
        cfg: A composed configuration.
        run_dir: Where everything is written.
        loggers: Told of every epoch, and of data and network as soon as they are known.
    """
    trusted = list(cfg.trusted_packages)
    module, parts = put_together(cfg, lambda done, total: write_progress(run_dir, FEATURES, done, total))
    describe(loggers, data_hash=parts.data.splits.fingerprint, network=parts.identity)
    with warnings.catch_warnings():
        for known in HARMLESS:
            warnings.filterwarnings("ignore", message=known)
        before = _before(cfg, run_dir, parts)
        best, steps = BestWeights(run_dir) if cfg.selection == "best" else None, StepTime()
        trainer = _trainer(cfg, trusted, run_dir, loggers, [before, steps, *([best] if best else [])])
        checkpoints = [run_dir / name for name in (CHECKPOINT, PREVIOUS)]
        whole = filter(_is_whole, [] if starts_over(cfg) else checkpoints)  # until one is
        if is_first_process():
            (run_dir / DIVERGED).unlink(missing_ok=True)  # of an earlier start
        if checkpoint := next(whole, None):
            log.info("going on from %s", checkpoint)
        trainer.fit(module, datamodule=parts.data, ckpt_path=checkpoint)
        selection = best.restore(module.embedder) if best else LAST_EPOCH
        write_progress(run_dir, TEST)
        trainer.test(module, datamodule=parts.data, verbose=False)
    intervals = store(run_dir, module)
    show(loggers, run_dir, parts.data.splits.test.class_names, parts.test_images)
    return measured(module, parts.data, parts.identity, before.value, intervals, selection, steps.median_s)


def put_together(
    cfg: DictConfig, on_features: Callable[[int, int], None] | None = None
) -> tuple[RetrievalModule, Parts]:
    """All that `cfg` describes, ready to be trained.

    Args:
        cfg: A composed configuration.
        on_features: Told how many features of a frozen backbone are computed, and of how many.
    """
    torch.set_num_threads(cfg.machine.threads)
    multiply("highest")  # torch's own default is TF32 in convolutions
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # every tensor is written to
    torch.set_flush_denormal(True)  # sigmoids of far pairs make denormals, which are a hundred times slower
    logging.captureWarnings(True)
    trusted, device = list(cfg.trusted_packages), _device(cfg)

    splits = build(cfg.data.splits, trusted)
    _check_number_of_classes(cfg, splits)
    if DEBUG in cfg:
        splits = few(
            splits, cfg.debug.classes, cfg.debug.images_per_class, cfg.data.loader.get("validation_classes", 0)
        )
    parts = _assemble(cfg, trusted, splits, device, on_features)
    counted = _with_number_of_classes(cfg, parts.data)
    metrics = {name: build(node, trusted) for name, node in cfg.metrics.items()}
    _seed(cfg)
    module = RetrievalModule(
        parts.embedder,
        Objective(build(counted.loss, trusted), build(cfg.tcm, trusted)),
        MetricCollection(metrics),
        build(cfg.optim.optimizer, trusted),
        build(cfg.optim.schedule, trusted),
        head_lr_scale=cfg.optim.head_lr_scale,
        loss_lr_scale=cfg.optim.loss_lr_scale,
        chunk_size=cfg.machine.chunk_size,
        matmul_precision=cfg.model.matmul_precision,
        seed=cfg.seed,
    )
    if cfg.machine.compile:
        torch.compiler.reset()  # torch compiles so many networks in a process and leaves further ones as they are
        module.embedder.compile()
    for metric in module.test_metrics.values():
        if isinstance(metric, EmbeddingMetric):
            metric.query, metric.gallery = roles(parts.data.splits.test)
    return module, parts


def _assemble(
    cfg: DictConfig,
    trusted: list[str],
    splits: Splits,
    device: str,
    on_features: Callable[[int, int], None] | None,
) -> Parts:
    """Data and network. Backbone and head are seeded apart, so that cached features leave the head's start as it is."""
    transforms = {
        name: build(cfg.data[name], trusted) for name in ("train_transform", "test_transform") if name in cfg.data
    }
    if DEBUG in cfg and not cfg.debug.augment and transforms:
        transforms["train_transform"] = transforms["test_transform"]
    make_data = build(cfg.data.loader, trusted)
    identity, start = dict[str, Any](), dict[str, Any]()
    backbone, images = None, splits if isinstance(splits.test, ImageTable) else None
    if isinstance(splits.train, ImageTable):
        _seed(cfg)
        backbone = build(cfg.model.backbone, trusted)
        identity = backbone.identity
        start = decisive(backbone, splits, transforms["test_transform"], torch.device(device))
        if cfg.model.freeze == "backbone":
            splits = frozen_features(
                backbone,
                splits,
                transforms.pop("test_transform"),
                cache_dir=Path(cfg.paths.cache_dir),
                device=device,
                num_workers=cfg.machine.num_workers,
                on_progress=on_features,
                progress_bar=bool(cfg.machine.progress),
            )
            transforms.clear()
    elif "_target_" in cfg.model.backbone:
        raise ConfigurationError(
            "the data are vectors already, so model/backbone would name a network that is not used; leave it out, or "
            "write model/backbone=none"
        )
    if (seed := cfg.data.get("split_seed")) is not None:  # after the features, which are the same for every draw
        splits = redrawn(splits, seed)
        images = redrawn(images, seed) if images else None
    fitted = {"classes_per_batch": None, "images_per_class": None} if DEBUG in cfg else {}
    data = make_data(splits=splits, **transforms, **fitted)
    _seed(cfg)
    make_head = build(cfg.model.head, trusted)
    if isinstance(splits.train, FeatureTable):
        embedder = Embedder(None, make_head, freeze=cfg.model.freeze, num_features=splits.train.num_features)
        if cfg.model.center:
            rows = np.flatnonzero(np.isin(splits.train.labels, data.train_classes))
            sample = rows[np.linspace(0, len(rows) - 1, min(len(rows), 10_000)).astype(int)]
            cast(Any, embedder.head).center(torch.from_numpy(np.asarray(splits.train.features[sample])))
    else:
        embedder = Embedder(backbone, make_head, freeze=cfg.model.freeze)
    return Parts(data, embedder, identity, start, cast(ImageTable, images.test) if images else None)


def _before(cfg: DictConfig, run_dir: Path, parts: Parts) -> RecallBefore:
    """The measurement before training; of images it is kept for all runs that start from the same network."""
    metric = RecallMetric()
    metric.query, metric.gallery = roles(parts.data.splits.test)
    # Code of one's own says by no setting that it has changed.
    is_known = parts.start and not cfg.trusted_packages
    here = {"data": parts.data.splits.fingerprint, "precision": cfg.trainer.precision}
    of = {**parts.start, **here} if is_known else None
    return RecallBefore(run_dir, metric, Path(cfg.paths.cache_dir), of)


def _is_whole(checkpoint: Path) -> bool:
    """Whether there is a checkpoint to go on from; one that a disk or a power cut has damaged is removed.

    Its checksums are compared: torch reads whatever bytes there are, and training would go on from wrong weights.
    """
    if not checkpoint.exists():
        return False
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            damaged = archive.testzip()
    except (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        damaged = str(error)
    if damaged:
        log.warning("%s is damaged and is passed over (%s)", checkpoint, damaged)
        if is_first_process():
            checkpoint.unlink(missing_ok=True)  # else the next one would put it in the place of a good one
    return not damaged


def starts_over(cfg: DictConfig) -> bool:
    """Whether a run begins anew each time, whatever an earlier start has left.

    If forced, another process may be about to delete that; limited in steps, Lightning would go on elsewhere.
    """
    return bool(cfg.force) or cfg.trainer.get("max_steps", -1) != -1


def _seed(cfg: DictConfig) -> None:
    pl.seed_everything(cfg.seed, workers=True, verbose=False)


def _device(cfg: DictConfig) -> str:
    wanted = cfg.machine.accelerator
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = {"gpu": "cuda", "auto": found}.get(wanted, wanted)
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(
            f"machine.accelerator={wanted}, and torch {torch.__version__} sees no GPU here: take "
            "machine.accelerator=cpu, or a machine and a build of torch with CUDA"
        )
    if (
        device == "cuda"
        and str(cfg.trainer.precision).startswith("bf16")
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise ConfigurationError(
            f"trainer.precision={cfg.trainer.precision}, and {torch.cuda.get_device_name()} has no such units: take "
            "trainer.precision=32-true, or 16-mixed"
        )
    return device


def _check_number_of_classes(cfg: DictConfig, splits: Splits) -> None:
    number, declared = splits.train.num_classes, cfg.data.get("num_train_classes")
    if declared not in (None, number):
        raise ConfigurationError(
            f"the data have {number} training classes where data.num_train_classes={declared} is declared; "
            "correct the value or leave it out"
        )


def _with_number_of_classes(cfg: DictConfig, data: RetrievalData) -> DictConfig:
    """A copy of the configuration that says how many classes are drawn from, which a loss with proxies asks.

    The run keeps its name: that is taken from `cfg`, and the data decide the number.
    """
    counted = copy.deepcopy(cfg)
    OmegaConf.update(counted, "data.num_train_classes", len(data.drawn_classes), force_add=True)
    return counted


def _cluster() -> list[SLURMEnvironment]:
    """Lightning's own view of Slurm, but for its requeueing of jobs: that is `hydra_plugins.slurm`'s."""
    is_srun = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return [SLURMEnvironment(auto_requeue=False)] if is_srun else []


def _trainer(
    cfg: DictConfig, trusted: list[str], run_dir: Path, loggers: list[Logger], callbacks: list[Callback]
) -> pl.Trainer:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return build(
        cfg.trainer,
        trusted,
        accelerator=cfg.machine.accelerator,
        devices=cfg.machine.devices,
        num_nodes=cfg.machine.num_nodes,
        strategy=cfg.machine.strategy,
        default_root_dir=str(run_dir),
        logger=loggers or False,
        callbacks=[*callbacks, *(build(node, trusted) for node in cfg.callbacks.values() if node)],
        plugins=[PlainCheckpoints(), *_cluster()],
        enable_progress_bar=bool(cfg.machine.progress) and sys.stderr.isatty(),
        enable_model_summary=False,
        use_distributed_sampler=False,  # the loaders cut themselves by rank
        num_sanity_val_steps=0,
    )
