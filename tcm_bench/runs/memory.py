"""A run that needs more memory than there is: told apart from other failures, with what makes it need less."""

import errno
import re
from collections.abc import Iterator

from omegaconf import DictConfig

from tcm_bench.results.ledger import BEFORE, FEATURES, TEST, TRAIN, VALIDATE
from tcm_bench.runs.errors import causes

# torch on a CUDA or Apple GPU, cuBLAS and cuDNN, torch on a CPU; numpy raises MemoryError, fork an OSError.
SIGNS = re.compile(
    r"out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED|can(no|')t allocate memory|shared memory|by signal: Killed",
    re.IGNORECASE,
)
WANTED = re.compile(r"tried to allocate ([\d.]+ \w+)|unable to allocate ([\d.]+ \w+)", re.IGNORECASE)
DOING = {
    FEATURES: "the features of the frozen backbone were computed",
    BEFORE: "the untrained network was measured",
    TRAIN: "training",
    VALIDATE: "the held-out classes were measured",
    TEST: "the network was measured",
}


class OutOfMemory(ValueError):
    """A run needed more memory than there is; how it can need less."""


def out_of_memory(error: BaseException, cfg: DictConfig, stage: str | None) -> OutOfMemory | None:
    """The sentence for an error that means too little memory; None for any other.

    Args:
        error: Of torch, numpy or the system.
        cfg: The run's configuration.
        stage: What the run was doing, as it says in `running.json`.
    """
    found = next((cause for cause in causes(error) if _is_shortage(cause)), None)
    if found is None:
        return None
    wanted = WANTED.search(str(found))
    asked = f" ({next(filter(None, wanted.groups()))} more were asked for)" if wanted else ""
    doing = DOING.get(stage or "", "the run was built")
    return OutOfMemory(f"out of memory while {doing}{asked}: {'; '.join(_remedies(cfg, stage))}")


def _is_shortage(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(SIGNS.search(str(error))))


def _remedies(cfg: DictConfig, stage: str | None) -> Iterator[str]:
    """What to do, that first which changes no number."""
    from tcm_bench.data.datamodule import STANDARD_BATCH  # by way of torch, which takes seconds

    machine, loader = cfg.machine, cfg.data.loader
    asked = (loader.get("classes_per_batch"), loader.get("images_per_class"))
    classes, images = (one or standard for one, standard in zip(asked, STANDARD_BATCH, strict=True))
    if stage == TRAIN:
        size = classes * images
        at_once = machine.chunk_size or size
        if at_once > 1:
            fewer = max(min(at_once // 4, 64), 1)
            needs = ", but needs frozen BatchNorm (model.freeze=batch_norm)" if cfg.model.freeze == "none" else ""
            yield f"machine.chunk_size={fewer} embeds so many at a time, not {at_once}, changes no gradient{needs}"
        yield (
            f"a smaller batch than data.loader.classes_per_batch={classes} x data.loader.images_per_class={images} = "
            f"{size}, or trainer.precision=bf16-mixed instead of {cfg.trainer.precision}, makes another run"
        )
    elif stage in (BEFORE, VALIDATE, TEST):
        if machine.test_batch_size > 1:
            fewer = max(machine.test_batch_size // 4, 1)
            yield f"machine.test_batch_size={fewer} instead of {machine.test_batch_size} changes no number"
        if stage != BEFORE and (dim := cfg.model.head.get("embedding_dim")):
            yield f"a smaller model.head.embedding_dim than {dim} makes another run"
    if machine.num_workers or machine.image_cache_gb:
        yield f"machine.num_workers={machine.num_workers} processes hold images, too, in /dev/shm"
    if stage != TRAIN and machine.accelerator != "cpu":
        yield "machine.accelerator=cpu takes the machine's memory instead of a GPU's"
    yield "other programs may hold some of it"
