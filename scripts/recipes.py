"""Write the values of the sixteen cells into docs/recipes.md, as they are composed: ``python scripts/recipes.py``."""

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tcm_bench.data.datasets import cars, cub, inat, sop
from tcm_bench.files import write_atomic
from tcm_bench.report.comparison import pipe_table
from tcm_bench.runs.naming import composed

PROJECT = Path(__file__).parents[1]
DOCUMENT = PROJECT / "docs" / "recipes.md"
MARKED = re.compile(r"(<!-- cells -->\n).*?(<!-- end -->)", flags=re.DOTALL)
COUNTS = {"cub": cub.COUNTS, "cars": cars.COUNTS, "sop": sop.COUNTS, "inat": inat.COUNTS}
# Images a second in training, on one A100 with bf16: assumed, to have an idea of the cost.
SPEED = {"resnet50": 1000, "vit_base_patch16_224": 600}
# What a network keeps of an image for its backward pass in bf16, and its weights with gradients and Adam's two means.
IMAGE_MB = {"resnet50": 44, "vit_base_patch16_224": 66}
WEIGHTS_GB = {"resnet50": 0.4, "vit_base_patch16_224": 1.4}
MATRICES = 12  # of batch x batch float32 numbers, which a loss and TCM hold at once
TITLES = [
    "cell",
    "network",
    "head",
    "optimizer, weight decay",
    "rate",
    "rate x 0.3 at epochs",
    "epochs",
    "batch",
    "in chunks of",
    "held out",
    "R@k",
    "GPU hours",
    "GB",
]


def cells() -> list[str]:
    """Their names."""
    cells = (file.stem for file in (PROJECT / "conf" / "experiment").glob("[!_]*_*_*.yaml"))
    return sorted(cells)  # of the paper: data, backbone and loss; not the toy


def line(name: str, cfg: DictConfig) -> list[str]:
    """What a cell is made of, a string for each of `TITLES`."""
    optimizer, loader, backbone = cfg.optim.optimizer, cfg.data.loader, cfg.model.backbone
    classes, images = COUNTS[name.partition("_")[0]]["train"]
    trained = cfg.trainer.max_epochs * images * (1 - loader.validation_classes / classes)
    passes = 4 / 3 if cfg.machine.chunk_size else 1  # with chunks every image goes forward twice
    schedule = cfg.optim.schedule
    batch = loader.classes_per_batch * loader.images_per_class
    at_once = min(cfg.machine.chunk_size or batch, batch)
    memory_gb = at_once * IMAGE_MB[backbone.architecture] / 1e3 + 4 * MATRICES * batch**2 / 1e9
    head_rate = f", head x {cfg.optim.head_lr_scale:g}" if cfg.optim.head_lr_scale != 1 else ""
    found: list[Any] = [
        name,
        f"{backbone.architecture}.{backbone.weights.tag}, {backbone.pooling}",
        "layer norm, linear" if cfg.model.head.layer_norm else "linear",
        f"{optimizer._target_.rpartition('.')[2]}, {optimizer.weight_decay:g}",
        f"{optimizer.lr:g}{head_rate}",
        ", ".join(map(str, schedule.milestones)) if schedule.gamma < 1 else "–",
        cfg.trainer.max_epochs,
        f"{loader.classes_per_batch} x {loader.images_per_class}",
        cfg.machine.chunk_size or "–",
        loader.validation_classes,
        "/".join(map(str, cfg.metrics.evaluation.ks)),
        f"{trained * passes / SPEED[backbone.architecture] / 3600:.1f}",
        f"{memory_gb + WEIGHTS_GB[backbone.architecture]:.0f}",
    ]
    return [str(value) for value in found]


def disk_gb(name: str, cfg: DictConfig) -> float:
    """What a run of a cell keeps: its weights, and the embeddings of the test images."""
    images = COUNTS[name.partition("_")[0]]["test"][1]
    return WEIGHTS_GB[cfg.model.backbone.architecture] / 4 + 4 * cfg.model.head.embedding_dim * images / 1e9


def rendered(text: str) -> str:
    """The document with the table as the configuration has it."""
    table = pipe_table(TITLES, [line(name, composed(f"+experiment={name}")) for name in cells()], left=6)
    return MARKED.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text)


if __name__ == "__main__":
    write_atomic(DOCUMENT, rendered(DOCUMENT.read_text(encoding="utf-8")))
