"""What a sweep refuses before its first job starts; every job is looked at."""

import math
import re

import pytest
import torch
from answers import answer
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from vectors import command

from tcm_bench.runs.build import ConfigurationError, check_targets
from tcm_bench.runs.checks import limited, num_processes
from tcm_bench.runs.limits import faults
from tcm_bench.runs.naming import PROJECT_ROOT, choices
from tcm_bench.runs.run import main
from tcm_bench.runs.sweep import job_overrides, refuse_nonsense


def composed(*overrides: str, **options: bool):
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        return compose("config", list(overrides), **options)


@pytest.mark.parametrize(
    ("devices", "accelerator", "gpus", "expected"),
    [
        (1, "auto", 8, 1),
        ("auto", "auto", 8, 8),
        ("auto", "gpu", 2, 2),
        ("auto", "auto", 0, 1),
        ("auto", "cpu", 8, 1),
        (-1, "cuda", 8, 8),
        ("-1", "gpu", 8, 8),
        (3, "cpu", 0, 3),
        ("3", "gpu", 8, 3),
        ("0,1", "gpu", 8, 2),
        ("1,", "gpu", 8, 1),
        ([3], "gpu", 8, 1),
        ([0, 3], "gpu", 8, 2),
    ],
)
def test_processes_of_a_run_are_counted_as_lightning_starts_them(devices, accelerator, gpus, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    machine = OmegaConf.create({"devices": devices, "accelerator": accelerator, "num_nodes": 1})
    assert num_processes(machine) == expected
    assert num_processes(OmegaConf.merge(machine, {"num_nodes": 2})) == 2 * expected


def test_devices_that_are_neither_number_nor_list_are_refused_with_the_key():
    machine = OmegaConf.create({"devices": "two", "accelerator": "cpu", "num_nodes": 1})
    with pytest.raises(ConfigurationError, match=r"machine\.devices must be a number.*got 'two'"):
        num_processes(machine)


def test_several_processes_for_any_job_of_a_local_sweep_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    alone = composed("seed=0", return_hydra_config=True)
    for more in ("machine.devices=2", "machine.devices=auto", "machine.devices=[0,1]", "machine.num_nodes=2"):
        several = composed("seed=1", more, return_hydra_config=True)
        with pytest.raises(ConfigurationError, match=r"needs a launcher.*machine\.devices=1 runs it here"):
            refuse_nonsense([alone, several])
    refuse_nonsense([alone])


def test_every_target_is_checked_without_being_built():
    """The data here are not there, and need not be."""
    check_targets(composed("data=cub", "data.root=/nowhere"))
    with pytest.raises(ConfigurationError, match=r"takes no 'callbacks\.progress\.evry_s'; did you mean 'every_s'"):
        check_targets(composed("data.root=/nowhere", "+callbacks.progress.evry_s=3"))
    with pytest.raises(ConfigurationError, match=r"logger\.wandb\.mode must be one of .*offline, .*got 'of'"):
        check_targets(composed("logger=wandb", "logger.wandb.mode=of"))
    with pytest.raises(ConfigurationError, match=r"loss\._target_=mine\.Loss is outside the trusted packages"):
        check_targets(composed("loss._target_=mine.Loss"))
    with pytest.raises(ConfigurationError, match=r"loss\._target_=tcm_bench\.no\.Loss cannot be imported"):
        check_targets(composed("loss._target_=tcm_bench.no.Loss"))


SWEEPS = sorted(file.stem for file in (PROJECT_ROOT / "conf" / "sweep").glob("*.yaml"))
RUNS = {
    "mini": 64,
    "pareto": 192,
    "toy": 9,
    "evidence_heads": 480,
    "base": 42,
    "margins": 42,
    "evidence": 126,
    "why": 12,
}


@pytest.mark.parametrize("name", SWEEPS)
def test_every_choice_of_the_sweeps_that_come_along_can_be_built(name):
    """Each value of each axis once, the other axes at their first: what is a choice here is one of its own."""
    axes = {
        key: value.split(",")
        for key, value in composed(f"+sweep={name}", return_hydra_config=True).hydra.sweeper.params.items()
    }
    first = {key: values[0] for key, values in axes.items()}
    assert math.prod(map(len, axes.values())) == RUNS.get(name, 32)  # the two arms of 16 comparisons
    others = [{key: value} for key, values in axes.items() for value in values[1:]]
    for chosen in [first, *({**first, **other} for other in others)]:
        words = [f"{key}={value.strip()}" for key, value in chosen.items()]
        made_by_prepare = ["data.sha256=none"] if re.search("emoji_m|mnist", " ".join(words)) else []
        cfg = composed(f"+sweep={name}", *words, *made_by_prepare)
        cfg.run_id = cfg.run_id  # worked out once
        assert OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        check_targets(cfg)
        assert not list(faults(limited(cfg)))  # such as a recipe without the margins that tcm=chosen takes from it


def test_a_word_that_refers_to_a_value_means_that_of_each_job():
    words = [
        "+evidence=head_icons_vit,head_kanji_vit",
        "seed=0,1",
        "data.loader.validation_classes=${chosen.validation_classes}",
    ]
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        config = compose("config", return_hydra_config=True)
        OmegaConf.update(config, "hydra.overrides.task", words)
        loader = GlobalHydra.instance().config_loader()
        jobs = [loader.load_sweep_config(config, overrides) for overrides in job_overrides(config)]
    assert [job.data.loader.validation_classes for job in jobs] == [48] * 4
    assert choices(jobs[0].hydra, 0)["data.loader.validation_classes"] == words[2].partition("=")[2]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-m", "+optim.schedule.warm=null,3"], "takes no 'optim.schedule.warm'"),
        (["+optim.schedule.warm=3", "data.root=/nowhere"], "takes no 'optim.schedule.warm'"),
        (["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=-1"], "hydra.launcher.n_jobs=-1 must be at least 1"),
    ],
    ids=["sweep", "run", "no-process"],
)
def test_what_cannot_be_built_is_refused_before_anything_is_read_or_written(tmp_path, words, sentence):
    ran = answer(main, command(tmp_path, *words)[2:])
    assert ran.status == 2
    assert ran.stderr.startswith("error: ")
    assert sentence in ran.stderr
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert not list(tmp_path.glob("runs/*"))
