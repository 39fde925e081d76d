"""What the plain values of a configuration may be: one line a key, so that all are checked before anything runs.

Types follow from the defaults in `conf/`; here is what a type does not say. A constructor refuses what it cannot work
with by itself; these lines refuse it before data are read, and what libraries would accept and do something else with.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple, TypeGuard

WIDEST = 65_536  # dimensions of an embedding: far above any in use, far below what memory holds
FINEST = 100_001  # points of a threshold grid: likewise
LARGEST_PX = 4_096
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true")


class Limit(NamedTuple):
    """What a value must be, in words, and the test of it."""

    words: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def whole(low: int, high: int | None = None) -> Limit:
    """A whole number of at least `low`, at most `high`."""
    words = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
    return Limit(words, lambda value: _is_whole(value) and low <= value and (high is None or value <= high))


def at_least(low: float) -> Limit:
    """A finite number of at least `low`."""
    return Limit(f"a number of at least {low:g}", lambda value: _is_number(value) and value >= low)


def above(low: float) -> Limit:
    """A finite number above `low`."""
    return Limit(f"a number above {low:g}", lambda value: _is_number(value) and value > low)


def between(low: float, high: float) -> Limit:
    """A number from `low` to `high`."""
    return Limit(f"a number from {low:g} to {high:g}", lambda value: _is_number(value) and low <= value <= high)


def inside(low: float, high: float) -> Limit:
    """A number between `low` and `high`, neither of them."""
    return Limit(f"a number above {low:g} and below {high:g}", lambda value: _is_number(value) and low < value < high)


def one_of(*names: str) -> Limit:
    """One of these words."""
    return Limit(f"one of {', '.join(names)}", lambda value: value in names)


def or_null(limit: Limit) -> Limit:
    """Also null."""
    return Limit(f"{limit.words}, or null", lambda value: value is None or limit.holds(value))


def none_or_several(each: Limit, words: str) -> Limit:
    """A list of values, each within a limit, or an empty one."""
    return Limit(words, lambda values: isinstance(values, list) and all(each.holds(value) for value in values))


def several(each: Limit, words: str, *, increasing: bool = False, count: int | None = None) -> Limit:
    """A list of at least one value, each within a limit."""

    def holds(values: Any) -> bool:
        if not isinstance(values, list) or not values or (count is not None and len(values) != count):
            return False
        in_order = not increasing or all(low < high for low, high in pairwise(values))
        return all(map(each.holds, values)) and in_order

    return Limit(words, holds)


RATE = Limit("a rate", lambda value: _is_number(value) and 0 < value <= 1)
LIMITS: Mapping[str, Limit] = {
    "seed": whole(0, 2**32 - 1),
    "machine.threads": whole(1),
    "machine.jobs": whole(1),
    "machine.num_nodes": whole(1),
    "machine.num_workers": whole(0),
    "machine.image_cache_gb": at_least(0),
    "machine.chunk_size": or_null(whole(1)),
    "machine.test_batch_size": whole(1),
    "machine.accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "selection": one_of("last", "best"),
    "trainer.max_epochs": whole(1),
    "trainer.max_steps": Limit(
        "a whole number of at least 1, or -1 for no limit", lambda n: _is_whole(n) and (n == -1 or n > 0)
    ),
    "trainer.min_epochs": or_null(whole(0)),
    "trainer.min_steps": or_null(whole(0)),
    "trainer.val_check_interval": or_null(above(0)),
    "trainer.log_every_n_steps": or_null(whole(0)),
    "trainer.accumulate_grad_batches": whole(1),
    "trainer.limit_train_batches": above(0),
    "trainer.check_val_every_n_epoch": whole(1),
    "trainer.gradient_clip_val": or_null(above(0)),
    "trainer.precision": one_of(*PRECISIONS),
    "debug.classes": whole(2),
    "debug.images_per_class": whole(2),
    "callbacks.checkpoint.every_min": at_least(0),
    "callbacks.checkpoint.share": above(0),
    "optim.head_lr_scale": above(0),
    "optim.loss_lr_scale": above(0),
    "optim.optimizer.lr": above(0),
    "optim.optimizer.fused": or_null(Limit("true or false", lambda value: isinstance(value, bool))),
    "optim.optimizer.weight_decay": at_least(0),
    "optim.optimizer.momentum": between(0, 1),
    "optim.schedule.warmup_epochs": at_least(0),
    "optim.schedule.gamma": above(0),
    "optim.schedule.milestones": several(above(0), "epochs in increasing order, as [40, 70]", increasing=True),
    "data.num_train_classes": or_null(whole(2)),
    "data.shrink_px": or_null(whole(1)),
    "data.split_seed": or_null(whole(0)),
    "data.splits.images_per_class": or_null(whole(2)),
    "data.splits.test_share": inside(0, 1),
    "data.loader.classes_per_batch": or_null(whole(2)),
    "data.loader.images_per_class": or_null(whole(2)),
    "data.loader.batches_per_epoch": or_null(whole(1)),
    "data.loader.seen_classes": whole(1),
    "data.loader.validation_classes": whole(0),
    "data.loader.held_out_together": whole(1),
    "data.loader.num_workers": whole(0),
    "data.loader.test_batch_size": whole(1),
    "data.train_transform.scale": several(RATE, "two shares of the area, low and high, as [0.08, 1.0]", count=2),
    "model.freeze": one_of("none", "batch_norm", "backbone"),
    "model.matmul_precision": one_of("highest", "high", "medium"),
    "model.head.embedding_dim": whole(1, WIDEST),
    "model.backbone.input.size_px": whole(8, LARGEST_PX),
    "model.backbone.input.resize_px": whole(8, LARGEST_PX),
    "model.backbone.input.interpolation": one_of("nearest", "bilinear", "bicubic"),
    "model.backbone.input.mean": several(between(-10, 10), "three numbers, of red, green and blue", count=3),
    "model.backbone.input.std": several(above(0), "three numbers above 0, of red, green and blue", count=3),
    "metrics.evaluation.ks": several(whole(1), "a list of whole numbers of at least 1, as [1, 2, 4, 8]"),
    "metrics.evaluation.num_thresholds": whole(2, FINEST),
    "metrics.evaluation.c": above(0),
    "metrics.evaluation.eps": inside(0, 1),
    "metrics.evaluation.far_bounds": several(RATE, "two rates, low and high, as [0.01, 0.1]", increasing=True, count=2),
    "metrics.evaluation.further_far_bounds": none_or_several(
        several(RATE, "two rates, low and high", increasing=True, count=2),
        "a list of pairs of rates, low and high, as [[0.001, 0.01]]",
    ),
    "metrics.evaluation.axis": one_of("distance", "similarity", "far"),
    "metrics.evaluation.ranking": one_of("mean", "pointwise"),
    "tcm.positive_margin": between(-1, 1),
    "tcm.negative_margin": between(-1, 1),
    "tcm.positive_weight": at_least(0),
    "tcm.negative_weight": at_least(0),
    "loss.calibration.positive_margin": between(-1, 1),
    "loss.calibration.negative_margin": between(-1, 1),
    "loss.temperature": above(0),
    "loss.rank_temperature": above(0),
    "loss.count_temperature": above(0),
    "loss.ks": several(whole(1), "a list of whole numbers of at least 1, as [1, 2, 4, 8, 16]"),
    "logger.wandb.mode": one_of("auto", "online", "offline", "disabled"),
    **{f"logger.wandb.{name}": whole(0) for name in ("classes_shown", "queries_shown")},
    "logger.wandb.project": Limit("a name", lambda value: isinstance(value, str) and bool(value.strip())),
}


def faults(values: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for every value that is out of its range, the order of `LIMITS` kept.

    Args:
        values: Plain values by dotted key; keys that no line names are passed over.

    Example:
        >>> list(faults({"seed": -1}))
        ['seed must be a whole number from 0 to 4294967295, got -1']
    """
    if "tcm.negative_margin" in values and values["tcm.negative_margin"] is None:  # as tcm=chosen leaves it
        yield (
            "no margins were chosen for this recipe: tcm=paper takes the published ones, +evidence=... those of a"
            " recipe that has some, chosen.positive_margin=... and the other three of chosen your own"
        )
    for key, limit in LIMITS.items():
        if key in values and not limit.holds(values[key]):
            yield f"{key} must be {limit.words}, got {_shown(values[key])}"
    yield from _disagreements(values)


def _disagreements(values: Mapping[str, Any]) -> Iterator[str]:
    """Values that are right by themselves and wrong together."""
    for node in ("tcm", "loss.calibration"):
        below, above_it = f"{node}.negative_margin", f"{node}.positive_margin"
        low, high = values.get(below), values.get(above_it)
        if _is_number(low) and _is_number(high) and low >= high:
            yield f"{above_it} must be above {below}, got {high} and {low}: are they swapped?"
    warmup, epochs = values.get("optim.schedule.warmup_epochs"), values.get("trainer.max_epochs")
    if _is_number(warmup) and _is_number(epochs) and warmup >= epochs:
        yield (
            f"optim.schedule.warmup_epochs must be below trainer.max_epochs={epochs}, got {warmup}: "
            "the rate would never reach optim.optimizer.lr"
        )
    size, resize = values.get("model.backbone.input.size_px"), values.get("model.backbone.input.resize_px")
    if _is_whole(size) and _is_whole(resize) and resize < size:
        yield (
            f"model.backbone.input.resize_px must be at least model.backbone.input.size_px={size}, got {resize}: "
            "the crop would not fit into the image"
        )
    precision, fused = str(values.get("trainer.precision")), values.get("optim.optimizer.fused")
    if fused and precision.endswith("-mixed") and values.get("trainer.gradient_clip_val"):
        yield (
            f"trainer.gradient_clip_val with trainer.precision={precision} needs optim.optimizer.fused=false: "
            "Lightning cannot clip what a fused optimizer scales back itself"
        )
    if values.get("selection") == "best" and not values.get("data.loader.validation_classes"):
        yield "selection=best chooses by held-out classes: say how many by data.loader.validation_classes=N"
    ks = values.get("metrics.evaluation.ks")
    if values.get("selection") == "best" and isinstance(ks, list) and 1 not in ks:
        yield f"selection=best chooses by recall_at_1: metrics.evaluation.ks must have a 1, got {ks}"
    every = values.get("trainer.check_val_every_n_epoch")
    if values.get("selection") == "best" and _is_whole(every) and _is_whole(epochs) and every > epochs:
        yield f"selection=best needs a validation: trainer.check_val_every_n_epoch={every} is above the {epochs} epochs"
    together = values.get("data.loader.held_out_together")
    if values.get("data.split_seed") is not None and _is_whole(together) and together > 1:
        yield (
            "data.split_seed draws single classes, and would part those that data.loader.held_out_together="
            f"{together} says are related: leave it out"
        )


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
