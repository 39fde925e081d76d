"""Experiments from their command to their row: official layout, the real network, one step, one evaluation."""

import csv

import official
import pytest
import timm
from composition import composition
from hydra import compose, initialize_config_dir
from memory import hand_back
from safetensors.torch import save_file

from tcm_bench.runs.naming import PROJECT_ROOT
from tcm_bench.runs.run import execute

CONF = PROJECT_ROOT / "conf"
# Every data set with every network, with every loss, and every network with every loss; that the parts of the other
# eight fit each other is seen without a step (tests/runs/test_sweep_checks.py).
EXPERIMENTS = [
    "cub_resnet50_rs_at_k",
    "cub_vit_b16_smooth_ap",
    "cars_resnet50_smooth_ap",
    "cars_vit_b16_rs_at_k",
    "sop_resnet50_rs_at_k",
    "sop_vit_b16_smooth_ap",
    "inat_resnet50_smooth_ap",
    "inat_vit_b16_rs_at_k",
]
FIXTURES = {
    "cub": official.cub_folder,
    "cars": official.cars_folder_b,
    "sop": official.sop_folder,
    "inat": official.inat_folder,
}
PER_CLASS = 2
SMALL = [  # one step of a small batch; the recipe stays as it is
    "data.subset=true",
    "data.num_train_classes=null",
    "data.loader.classes_per_batch=2",
    "data.loader.images_per_class=2",
    "data.loader.batches_per_epoch=1",
    "data.loader.seen_classes=1",
    "data.loader.validation_classes=0",
    "trainer.max_epochs=1",
    "machine.accelerator=cpu",
    "machine.threads=1",
    "machine.progress=false",
    "~callbacks.checkpoint",  # a gigabyte of a ViT's, which nobody goes on from
    "+trainer.enable_checkpointing=false",  # Lightning would write one of its own
    "logger=none",  # has tests of its own; a service to start and to stop for each of these
]


def small_images(name, architecture):
    """One of each network sees images of full size (ResNet: in the debug mode); the others show it small ones."""
    if name == "cars_vit_b16_rs_at_k":
        return []
    grid = ["+model.backbone.options={img_size: 64}"] if architecture.startswith("vit") else []
    return ["model.backbone.input.size_px=64", "model.backbone.input.resize_px=64", *grid]


@pytest.fixture(autouse=True)
def _handed_back():
    yield
    hand_back()


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Puts random weights of a network where `paths.weights_dir` has the published ones; once for all experiments."""
    folder = tmp_path_factory.mktemp("weights")

    def placed(name):
        file = folder / f"{name}.safetensors"
        if not file.exists():
            save_file(timm.create_model(name, pretrained=False).state_dict(), file)
        return folder

    return placed


@pytest.fixture(scope="session")
def datasets(tmp_path_factory):
    """Writes the small copy of a data set; once for all experiments."""
    folder = tmp_path_factory.mktemp("data")

    def placed(name):
        root = folder / name
        if not root.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(official, "IMAGES", (PER_CLASS,) * len(official.IMAGES))  # a ViT takes its time
                FIXTURES[name](root)
        return root

    return placed


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_takes_a_step_and_is_evaluated(name, weights, datasets, tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = compose("config", [f"+experiment={name}"], return_hydra_config=True)
        backbone, data = plain.model.backbone, plain.hydra.runtime.choices["data"]
        words = [
            f"+experiment={name}",
            f"data.root={datasets(data)}",
            f"paths.weights_dir={weights(f'{backbone.architecture}.{backbone.weights.tag}')}",
            f"paths.output_dir={tmp_path}",
            *SMALL,
            *small_images(name, backbone.architecture),
        ]
    cfg, chosen = composition(*words)
    assert cfg.optim == plain.optim  # the recipe's own

    row = execute(cfg, chosen)

    assert row.status == "finished"
    assert row.counts["test_images"] == PER_CLASS * official.COUNTS["test"][0]
    assert row.network["weights"]["name"] == f"{backbone.architecture}.{backbone.weights.tag}"
    assert 0 <= row.metrics["recall_at_1"] <= 1
    (epoch,) = csv.DictReader((tmp_path / "runs" / row.run_id / "history.csv").read_text().splitlines())
    assert int(epoch["step"]) == 1
    assert float(epoch["lr"]) == pytest.approx(cfg.optim.optimizer.lr)


@pytest.mark.parametrize("name", ["cub_resnet50_rs_at_k"])
def test_debug_fast_tries_an_experiment_as_it_is(name, weights, datasets, tmp_path):
    """Nothing is made small by hand but the classes held out, of four: the mode does it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = compose("config", [f"+experiment={name}"], return_hydra_config=True)
        backbone, data = plain.model.backbone, plain.hydra.runtime.choices["data"]
        words = [
            f"+experiment={name}",
            "+debug=fast",
            "data.loader.validation_classes=1",
            f"data.root={datasets(data)}",
            "data.subset=true",
            f"paths.weights_dir={weights(f'{backbone.architecture}.{backbone.weights.tag}')}",
            f"paths.output_dir={tmp_path}",
            "machine.accelerator=cpu",
            "machine.threads=1",
        ]
    cfg, chosen = composition(*words)
    assert (cfg.optim, cfg.loss, cfg.model.head) == (plain.optim, plain.loss, plain.model.head)
    assert not cfg.logger

    row = execute(cfg, chosen)

    assert row.status == "debug"
    assert row.counts["test_images"] == PER_CLASS * official.COUNTS["test"][0]
    assert not (tmp_path / "runs").exists()
