"""How many of 20 ImageNet photographs each pretrained network gets right: python tests/benchmarks/imagenet_twenty.py.

Twenty images prove that weights and preprocessing go together, not an accuracy. The ResNet-50 v1 is fetched by npm.
"""

from importlib import metadata
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tcm_bench.data.decode import picture
from tcm_bench.data.transforms import Preprocessing

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("mobilenetv2", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "resnet50_v1")


def main() -> None:
    """Print one line a network."""
    paths = sorted(Path(str(metadata.distribution("foolbox").locate_file("foolbox/data"))).glob("imagenet_*.jpg"))
    classes = torch.tensor([int(path.stem.rpartition("_")[2]) for path in paths])[:, None]
    for name in NAMES:
        cfg = OmegaConf.merge(
            {"paths": {"weights_dir": str(ROOT / "data" / "weights")}},
            {"backbone": OmegaConf.load(ROOT / "conf" / "model" / "backbone" / f"{name}.yaml")},
        )
        backbone = OmegaConf.to_container(cfg.backbone, resolve=True)
        weights = instantiate(backbone["weights"])
        network = weights.network(weights.verified_file(), backbone["architecture"], {}).eval()
        transform = Preprocessing(**backbone["input"])
        pixels = torch.stack([transform(picture(path.read_bytes(), path.name)) for path in paths])
        with torch.inference_mode():
            best = network(transform.normalize(pixels)).topk(5).indices
        top1, top5 = (best[:, :1] == classes).sum(), (best == classes).any(dim=1).sum()
        print(f"{name:20} {int(top1)} of {len(paths)} right, {int(top5)} among the first five")


if __name__ == "__main__":
    main()
