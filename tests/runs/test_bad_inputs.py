"""What a user can get wrong on the command line of training: one sentence each, and nothing written.

Every line is the real command in a fork of this process. The words are Hydra's overrides; the fragments must all stand
in the one sentence: the key or file that is wrong, and what would be right.
"""

import json
import shlex
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from answers import Answer, answer
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from vectors import head, write_vectors

import tcm_bench.runs.experiment  # noqa: F401 - here once, instead of in every fork
from tcm_bench.runs.build import check_targets
from tcm_bench.runs.checks import check, limited
from tcm_bench.runs.errors import explain
from tcm_bench.runs.limits import faults
from tcm_bench.runs.naming import CONFIG_NAME, PROJECT_ROOT
from tcm_bench.runs.run import main

CONFIGURATION = [  # refused by the configuration alone: status 2
    # names that do not exist
    ("loss=smoth_ap", "there is no loss=smoth_ap", "smooth_ap"),
    ("data=cubb", "there is no data=cubb", "'cub'"),
    ("data=_images", "there is no data=_images"),
    ("model/backbone=resnet5", "there is no model/backbone=resnet5", "resnet50"),
    ("tcm=off", "there is no tcm=", "none"),
    ("tcm=no", "there is no tcm=", "none"),
    ("optim=adam", "there is no optim=adam", "default"),
    ("optim/optimizer=adamm", "there is no optim/optimizer=adamm", "adam"),
    ("optim/schedule=step", "there is no optim/schedule=step", "multi_step"),
    ("machine=gpus", "there is no machine=gpus", "gpu"),
    ("logger=wandbb", "there is no logger=wandbb", "wandb"),
    ("trainer=fast", "there is no trainer=fast", "default"),
    ("metrics=opis", "there is no metrics=opis", "default"),
    ("+experiment=cub_resnet50", "there is no experiment=cub_resnet50", "cub_resnet50_"),
    ("+experiment=_smooth_ap2", "there is no experiment=_smooth_ap2"),
    ("-m +sweep=minni", "there is no sweep=minni", "mini"),
    ("sed=3", "unknown key 'sed'", "did you mean 'seed'"),
    ("+sed=3", "unknown key 'sed'", "did you mean 'seed'"),
    ("optim.lr=1", "unknown key 'optim.lr'"),
    ("+optim.optimizer.wieght_decay=1", "takes no 'optim.optimizer.wieght_decay'", "weight_decay"),
    ("tcm.margin=0.5", "unknown key 'tcm.margin'", "_margin"),
    ("machine.thread=1", "unknown key 'machine.thread'", "threads"),
    ("+machine.thread=1", "unknown key 'machine.thread'", "threads"),
    ("model.chunk_size=4", "unknown key 'model.chunk_size'; did you mean 'machine.chunk_size'?"),
    ("machine.output_dir=x", "unknown key 'machine.output_dir'; did you mean 'paths.output_dir'?"),
    ("metrics.evaluation.steps=5", "did you mean 'metrics.evaluation.num_thresholds'?"),
    ("machine.cache_dir=x", "unknown key 'machine.cache_dir'; did you mean 'paths.cache_dir'?"),
    ("paths.outputdir=x", "unknown key 'paths.outputdir'; did you mean 'output_dir'?"),
    ("hydra.launcher.n_jobs=2 -m seed=0,1", "hydra.launcher.n_jobs", "hydra/launcher=joblib"),
    # ways of writing that Hydra takes for something else
    ("experiment=cub_resnet50_smooth_ap", "+experiment="),
    ("sweep=mini", "+sweep="),
    ("seed=1,2", "seed=1,2", "add -m"),
    ("tcm=none,paper", "tcm=none,paper", "add -m"),
    ("seed", "'seed'", "key=value"),
    ("seed=", "seed must be a whole number"),
    ("data.file=größe.npz", "data.file", "quote"),
    ("-m seed=0,0", "are the same run"),
    ("-m +experiment=glob(nothing_*)", "this sweep has no job"),
    ("-m sed=0,1", "unknown key 'sed'"),
    ("-m seed=0,-1", "seed must be a whole number from 0"),
    ("-m loss=smooth_ap,rs_at_kk", "there is no loss=rs_at_kk"),
    ("-m seed=0,1 machine.devices=2", "machine.devices=2", "machine.devices=1"),
    ("-m machine.jobs=0 seed=0,1 hydra/launcher=joblib", "machine.jobs"),
    # what follows from the rest, or is set elsewhere
    ("run_id=mine", "run_id follows from the configuration"),
    ("run_dir=/x", "run_dir follows from the configuration", "paths.output_dir"),
    ("hydra.run.dir=x", "hydra.run.dir", "paths.output_dir"),
    ("hydra.sweep.dir=x", "hydra.sweep.dir", "paths.output_dir"),
    ("+trainer.devices=2", "machine.devices"),
    ("+trainer.limit_test_batches=1", "trainer.limit_test_batches", "part of the test set"),
    ("paths.results_dir=x", "paths.results_dir follows from paths.output_dir"),
    ("debug=fast paths.results_dir=x", "paths.results_dir follows from paths.output_dir"),
    ("debug=fsat", "there is no debug=fsat; did you mean 'fast'?"),
    ("debug=fast debug.classes=1", "debug.classes must be a whole number of at least 2"),
    ("debug=fast ~debug", "debug cannot be taken away"),
    ("debug=fast ~debug.mode", "debug.mode cannot be taken away"),
    ("+debug.mode=fast", "unknown key 'debug'"),
    ("trainer.benchmark=maybe", "trainer.benchmark must be true or false"),
    ("loss=contrastive +loss.loss.nomargin=3", "takes no 'loss.loss.nomargin'", "did you mean"),
    # what nothing runs without
    ("~tcm", "tcm cannot be taken away"),
    # values: the first of each kind; the others are in VALUES
    ("seed=three", "seed must be a whole number", "'three'"),
    ("machine.threads=0", "machine.threads must be a whole number of at least 1"),
    ("tcm.positive_margin=0.5", "tcm.positive_margin must be above tcm.negative_margin"),
    ("loss.temperature=0", "loss.temperature must be a number above 0"),
    ("machine.devices=0", "machine.devices must be"),
    ("machine.devices=many", "machine.devices must be"),
    ("optim.schedule._target_=tcm_bench.training.schedules.MultiStep", "optim.schedule.warmup_epochs"),
    ("machine.devices=64", "machine.devices=64", "64 processes", "machine.oversubscribe=true"),
    # code that is not trusted, or not there
    ("loss._target_=os.system", "loss._target_=os.system is outside the trusted packages", "trusted_packages=[os]"),
    ("loss._target_=mine.Loss trusted_packages=[mine]", "mine.Loss", "mine"),
    ("loss._target_=tcm_bench.losses.smooth_ap.Smooth", "loss._target_=tcm_bench.losses.smooth_ap.Smooth"),
    ("optim.optimizer._target_=torch.optim.Adamm", "optim.optimizer._target_=torch.optim.Adamm"),
    ("loss._target_=3", "loss._target_"),
    # data that are not there
    ("data.file=nowhere.npz", "data.file", "nowhere.npz", "No such file"),
    ("data=folder data.root=nowhere", "data.root", "nowhere"),
    ("data=folder", "data.root must be given"),
    ("data=table", "data.file must be given"),
    ("data=table data.file=nowhere.csv", "data.file", "nowhere.csv"),
    ("data=mnist data.root=nowhere", "data.root", "tcm-bench data prepare mnist"),
]
VALUES = [  # refused by the same checks, asked without a process for each
    ("tcm=chosen", "no margins were chosen for this recipe", "tcm=paper"),
    # keys
    ("+optim.lr=1", "unknown key 'optim.lr'"),
    ("optim/schedule=multi_step", "optim.schedule.milestones must be given"),
    ("optim.optimizer.lrr=1", "'optim.optimizer.lrr'", "did you mean 'lr'"),
    ("+optim.schedule.warmup=1", "takes no 'optim.schedule.warmup'", "warmup_epochs"),
    ("+tcm.margin=0.5", "takes no 'tcm.margin'", "_margin"),
    ("+loss.temprature=1", "takes no 'loss.temprature'", "temperature"),
    ("+metrics.evaluation.num_threshold=5", "takes no 'metrics.evaluation.num_threshold'", "num_thresholds"),
    ("+trainer.max_epoch=5", "takes no 'trainer.max_epoch'", "max_epochs"),
    ("+data.loader.batch_size=5", "takes no 'data.loader.batch_size'", "batch"),
    ("+model.dropout=1", "unknown key 'model.dropout'"),
    ("+data.rooot=x", "unknown key 'data.rooot'"),
    ("+machine.data_dir=x", "unknown key 'machine.data_dir'; did you mean 'paths.data_dir'?"),
    ("~paths.output_dir", "paths.output_dir cannot be taken away"),
    ("+trainer.accelerator=gpu", "machine.accelerator"),
    ("+trainer.strategy=ddp", "machine.strategy"),
    ("+trainer.num_nodes=2", "machine.num_nodes"),
    ("+trainer.logger=true", "trainer.logger", "logger=wandb"),
    ("+trainer.callbacks=[]", "trainer.callbacks", "+callbacks."),
    ("+trainer.default_root_dir=x", "trainer.default_root_dir", "paths.output_dir"),
    ("+trainer.enable_progress_bar=false", "machine.progress"),
    ("+trainer.use_distributed_sampler=true", "trainer.use_distributed_sampler"),
    ("+trainer.fast_dev_run=true", "trainer.fast_dev_run", "debug=fast", "+trainer.max_steps=1"),
    ("+trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches must be a whole number of at least 1"),
    ("+trainer.limit_train_batches=0", "trainer.limit_train_batches must be a number above 0"),
    ("+trainer.min_epochs=-5", "trainer.min_epochs must be a whole number of at least 0, or null"),
    ("+trainer.val_check_interval=0", "trainer.val_check_interval must be a number above 0, or null"),
    ("+trainer.benchmark=true", "trainer.benchmark is there already", "without the +"),
    ("+trainer.num_sanity_val_steps=2", "trainer.num_sanity_val_steps"),
    ("~loss", "loss cannot be taken away"),
    ("~data", "data cannot be taken away"),
    ("~metrics", "metrics cannot be taken away"),
    ("~machine", "cannot be taken away"),
    ("~paths", "cannot be taken away"),
    ("~callbacks", "callbacks cannot be taken away"),
    ("~logger", "logger cannot be taken away"),
    ("~seed", "seed cannot be taken away"),
    ("~metrics.evaluation", "metrics.evaluation cannot be taken away"),
    ("~model.head", "model.head cannot be taken away"),
    ("~optim.schedule", "optim.schedule cannot be taken away"),
    ("~machine.threads", "machine.threads cannot be taken away"),
    # types
    ("seed=three", "seed must be a whole number", "'three'"),
    ("seed=1.5", "seed must be a whole number", "1.5"),
    ("seed=true", "seed must be a whole number"),
    ("seed=null", "seed must be a whole number", "null"),
    ("seed=-1", "seed must be a whole number from 0", "-1"),
    ("seed=99999999999", "seed must be a whole number from 0 to 4294967295"),
    ("force=yes_please", "force must be true or false"),
    ("optim.optimizer.lr=fast", "optim.optimizer.lr must be a number", "'fast'"),
    ("trainer.max_epochs=ten", "trainer.max_epochs must be a whole number"),
    ("trainer.max_epochs=2.5", "trainer.max_epochs must be a whole number"),
    ("metrics.evaluation.ks=1", "metrics.evaluation.ks must be a list"),
    ("trusted_packages=mine", "trusted_packages must be a list"),
    ("machine.progress=maybe", "machine.progress must be true or false"),
]
RANGES = [  # refused by its value alone: put into a configuration that was composed once
    # machine
    ("machine.threads=0", "machine.threads must be a whole number of at least 1"),
    ("machine.threads=-2", "machine.threads must be a whole number of at least 1"),
    ("machine.jobs=0", "machine.jobs must be a whole number of at least 1"),
    ("machine.num_workers=-1", "machine.num_workers must be a whole number of at least 0"),
    ("machine.num_nodes=0", "machine.num_nodes must be a whole number of at least 1"),
    ("machine.image_cache_gb=-1", "machine.image_cache_gb must be a number of at least 0"),
    ("machine.chunk_size=0", "machine.chunk_size must be a whole number of at least 1, or null"),
    ("machine.test_batch_size=0", "machine.test_batch_size must be a whole number of at least 1"),
    ("machine.test_batch_size=null", "machine.test_batch_size must be a whole number", "null"),
    ("machine.accelerator=tpux", "machine.accelerator must be one of auto, cpu"),
    # training
    ("trainer.max_epochs=0", "trainer.max_epochs must be a whole number of at least 1"),
    ("trainer.max_epochs=-1", "trainer.max_epochs must be a whole number of at least 1"),
    ("trainer.max_epochs=null", "trainer.max_epochs must be a whole number of at least 1", "null"),
    ("+trainer.max_steps=0", "trainer.max_steps must be a whole number of at least 1, or -1"),
    ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val must be a number above 0, or null"),
    (
        "trainer.gradient_clip_val=1 trainer.precision=bf16-mixed",
        "trainer.gradient_clip_val with trainer.precision=bf16-mixed needs optim.optimizer.fused=false",
    ),
    ("trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch must be"),
    ("data=omniglot data.split_seed=1", "would part those that data.loader.held_out_together=4 says are related"),
    ("trainer.precision=16x", "trainer.precision must be one of 32-true"),
    ("model.matmul_precision=tf32", "model.matmul_precision must be one of highest, high, medium"),
    ("optim.head_lr_scale=-1", "optim.head_lr_scale must be a number above 0"),
    ("optim.head_lr_scale=0", "optim.head_lr_scale must be a number above 0"),
    ("optim.optimizer.lr=-1", "optim.optimizer.lr must be a number above 0"),
    ("optim.optimizer.lr=nan", "optim.optimizer.lr", "nan"),
    ("optim.optimizer.lr=inf", "optim.optimizer.lr", "inf"),
    ("optim.optimizer.weight_decay=-1", "optim.optimizer.weight_decay must be a number of at least 0"),
    ("optim/optimizer=sgd optim.optimizer.momentum=2", "optim.optimizer.momentum must be a number from 0 to 1"),
    ("optim.schedule.warmup_epochs=-1", "optim.schedule.warmup_epochs must be a number of at least 0"),
    ("optim.schedule.warmup_epochs=100", "optim.schedule.warmup_epochs must be below trainer.max_epochs"),
    ("optim/schedule=multi_step optim.schedule.milestones=[]", "optim.schedule.milestones must be epochs"),
    ("optim/schedule=multi_step optim.schedule.milestones=[5,3]", "optim.schedule.milestones", "increasing"),
    ("optim/schedule=multi_step optim.schedule.milestones=[1] optim.schedule.gamma=0", "optim.schedule.gamma"),
    # data
    ("data.loader.classes_per_batch=1", "data.loader.classes_per_batch must be a whole number of at least 2"),
    ("data.loader.images_per_class=1", "data.loader.images_per_class must be a whole number of at least 2"),
    ("data.loader.batches_per_epoch=0", "data.loader.batches_per_epoch must be", "or null"),
    ("data.loader.seen_classes=0", "data.loader.seen_classes must be a whole number of at least 1"),
    ("data.loader.validation_classes=-1", "data.loader.validation_classes must be a whole number of at least 0"),
    ("selection=worst", "selection must be one of last, best"),
    ("selection=best", "selection=best", "data.loader.validation_classes=N"),
    ("selection=best data.loader.validation_classes=4 metrics.evaluation.ks=[2,4]", "recall_at_1", "must have a 1"),
    ("selection=best data.loader.validation_classes=4 trainer.check_val_every_n_epoch=9", "selection=best", "above"),
    ("data.num_train_classes=1", "data.num_train_classes must be a whole number of at least 2"),
    ("data=features data.splits.test_share=0", "data.splits.test_share must be a number above 0 and below 1"),
    ("data=features data.splits.test_share=1", "data.splits.test_share must be a number above 0 and below 1"),
    ("data=quickdraw data.splits.images_per_class=1", "data.splits.images_per_class must be a whole number of at"),
    ("data=quickdraw data.shrink_px=0", "data.shrink_px must be a whole number of at least 1, or null"),
    ("data=quickdraw data.train_transform.scale=[0,1]", "data.train_transform.scale must be two shares"),
    # model
    ("model.freeze=all", "model.freeze must be one of none, batch_norm, backbone"),
    ("model.head.embedding_dim=0", "model.head.embedding_dim must be a whole number from 1 to"),
    ("model.head.embedding_dim=100000000", "model.head.embedding_dim must be a whole number from 1 to"),
    ("data=quickdraw model.backbone.input.size_px=0", "model.backbone.input.size_px must be a whole number from 8"),
    ("data=quickdraw model.backbone.input.size_px=100000", "model.backbone.input.size_px must be", "4096"),
    ("data=quickdraw model.backbone.input.resize_px=9", "model.backbone.input.resize_px must be at least", "size_px="),
    ("data=quickdraw model.backbone.input.interpolation=cubic", "interpolation must be one of nearest, bilinear"),
    ("data=quickdraw model.backbone.input.mean=[0.5]", "model.backbone.input.mean must be three numbers"),
    ("data=quickdraw model.backbone.input.std=[0,0,0]", "model.backbone.input.std must be three numbers above 0"),
    # measuring
    ("metrics.evaluation.ks=[]", "metrics.evaluation.ks must be a list of whole numbers of at least 1"),
    ("metrics.evaluation.ks=[0]", "metrics.evaluation.ks must be a list of whole numbers of at least 1"),
    ("metrics.evaluation.num_thresholds=1", "metrics.evaluation.num_thresholds must be a whole number from 2"),
    (
        "metrics.evaluation.num_thresholds=1000000000",
        "metrics.evaluation.num_thresholds must be a whole number from 2 to",
    ),
    ("metrics.evaluation.c=0", "metrics.evaluation.c must be a number above 0"),
    ("metrics.evaluation.eps=0", "metrics.evaluation.eps must be a number above 0 and below 1"),
    ("metrics.evaluation.eps=1.5", "metrics.evaluation.eps must be a number above 0 and below 1"),
    ("metrics.evaluation.far_bounds=[0.1,0.01]", "metrics.evaluation.far_bounds must be two rates, low and high"),
    ("metrics.evaluation.far_bounds=[0.1]", "metrics.evaluation.far_bounds must be two rates, low and high"),
    ("metrics.evaluation.far_bounds=[0,1]", "metrics.evaluation.far_bounds must be two rates, low and high"),
    ("metrics.evaluation.axis=angle", "metrics.evaluation.axis must be one of distance, similarity"),
    ("metrics.evaluation.ranking=worst", "metrics.evaluation.ranking must be one of mean, pointwise"),
    # losses
    ("tcm.positive_margin=1.5", "tcm.positive_margin must be a number from -1 to 1"),
    ("tcm.negative_margin=-2", "tcm.negative_margin must be a number from -1 to 1"),
    ("tcm.positive_margin=0.4 tcm.negative_margin=0.9", "tcm.positive_margin must be above tcm.negative_margin"),
    ("tcm.positive_margin=0.5", "tcm.positive_margin must be above tcm.negative_margin"),
    ("loss=roadmap loss.calibration.negative_margin=0.95", "loss.calibration.positive_margin must be above loss.cal"),
    ("tcm.positive_weight=-1", "tcm.positive_weight must be a number of at least 0"),
    ("tcm.negative_weight=nan", "tcm.negative_weight", "nan"),
    ("loss.temperature=0", "loss.temperature must be a number above 0"),
    ("loss.temperature=cold", "loss.temperature must be a number"),
    ("loss=rs_at_k loss.ks=[]", "loss.ks must be a list of whole numbers of at least 1"),
    ("loss=rs_at_k loss.rank_temperature=-1", "loss.rank_temperature must be a number above 0"),
    ("logger=wandb logger.wandb.mode=of", "logger.wandb.mode must be one of auto, online, offline, disabled"),
    ("logger=wandb 'logger.wandb.project=\"\"'", "logger.wandb.project must be a name"),
]
LATER = [  # refused once something was read or done: status 1, or 2 where a configuration is at fault
    ("machine.accelerator=gpu", "machine.accelerator=gpu", "no GPU", "machine.accelerator=cpu"),
    ("data=cub data.root=nowhere", "nowhere", "tcm-bench data prepare cub"),
    ("data=sop data.root=nowhere", "nowhere", "tcm-bench data prepare sop"),
    ("data=grocery data.root=nowhere", "nowhere", "tcm-bench data prepare grocery"),
    ("-m data=cub,cars data.root=nowhere", "nowhere", "tcm-bench data prepare cub", "tcm-bench data prepare cars"),
    ("data.loader.classes_per_batch=100000", "classes_per_batch=100000", "12 training classes", "classes_per_batch=12"),
    ("data.loader.images_per_class=11", "images_per_class=11", "the largest of 10 images", "images_per_class=10 can"),
    (
        "loss._target_=hungry.Loss trusted_packages=[hungry]",
        "out of memory while training (4611686018427387904 bytes more were asked for): machine.chunk_size=8",
        "data.loader.classes_per_batch=8 x data.loader.images_per_class=4 = 32",
        "trainer.precision=bf16-mixed instead of 32-true",
    ),
    (
        "+metrics.hungry._target_=hungry.Score trusted_packages=[hungry] data.loader.validation_classes=4",
        "out of memory while the held-out classes were measured",
        "machine.test_batch_size=64 instead of 256 changes no number",
    ),
    (
        "+metrics.hungry._target_=hungry.Score trusted_packages=[hungry] ~callbacks.checkpoint "
        "+trainer.enable_checkpointing=false",
        "out of memory while the network was measured",
        "machine.test_batch_size=64",
    ),
    ("data.loader.validation_classes=99", "data.loader.validation_classes", "99"),
    ("data.file=broken.npz", "broken.npz"),
    ("data.file=flat.npz", "flat.npz"),
    ("data.file=one_class.npz", "one_class.npz", "class"),
    ("data.file=nan.npz", "nan.npz", "finite"),
    ("data.file=text.csv", "text.csv", ".npz"),
    ("data.file=.", "data.file"),
    ("data=folder data.root=flat_images", "flat_images", "folder"),
    ("data=table data.file=text.csv", "text.csv", "path"),
    ("data=table data.file=broken.npz", "broken.npz"),
    ("data=table data.file=utf16.csv", "utf16.csv", "save it as UTF-8"),
    ("data.num_train_classes=5", "data.num_train_classes=5", "12 training classes"),
    ("paths.output_dir=text.csv", "text.csv"),
]

HUNGRY = """
import torch
from torchmetrics import Metric
from tcm_bench.losses.smooth_ap import SmoothAP

class Loss(SmoothAP):
    def forward(self, pairs):
        return torch.empty(2**60)

class Score(Metric):
    def update(self, *batch):
        torch.empty(2**60)

    def compute(self):
        return torch.tensor(0.0)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with good vectors and bad files."""
    folder = tmp_path_factory.mktemp("place")
    write_vectors(folder)
    labels = np.repeat(np.arange(8), 4)
    features = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    np.savez(folder / "flat.npz", features=features[0], labels=labels)
    np.savez(folder / "one_class.npz", features=features, labels=labels * 0)
    np.savez(folder / "nan.npz", features=np.where(features > 1.5, np.nan, features), labels=labels)
    (folder / "broken.npz").write_bytes((folder / "mine.npz").read_bytes()[:300])
    (folder / "text.csv").write_text("a,b\n1,2\n")
    (folder / "utf16.csv").write_text("path,label,split\n", encoding="utf-16")
    (folder / "flat_images").mkdir()
    (folder / "hungry.py").write_text(HUNGRY)
    return folder


def with_good_vectors(words: list[str], place: Path) -> list[str]:
    """The words behind those of a run that would go well, less what they say themselves."""
    keys = {word.partition("=")[0].lstrip("~+") for word in words}
    base = [] if keys & {"data", "experiment", "sweep"} and not keys & {"data.file"} else head(place / "mine.npz")
    return [*(word for word in base if word.partition("=")[0] not in keys), *words]


def said(words: str, place: Path) -> tuple[Answer, list[Path]]:
    """What the command answers, and the files that it leaves."""
    own = shlex.split(words)
    out = place / "outputs" / str(len(list(place.glob("outputs/*"))))
    out.mkdir(parents=True)
    there = [] if any(word.startswith("paths.output_dir") for word in own) else [f"paths.output_dir={out}"]
    sweep = [word for word in own if word == "-m"]
    rest = with_good_vectors([word for word in own if word != "-m"], place)
    with warnings.catch_warnings():  # from 3.12 on Python warns of every fork of a process with threads
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        found = answer(main, [*sweep, "machine.progress=false", "machine.accelerator=cpu", *there, *rest], place)
    return found, [file for file in out.rglob("*") if file.is_file()]


def is_one_sentence(found: Answer) -> bool:
    return found.stderr.startswith("error: ") and found.stderr.count("\n") == 1 and not found.stdout


@pytest.mark.parametrize(("words", "fragments"), [(words, rest) for words, *rest in CONFIGURATION], ids=str)
def test_a_wrong_configuration_is_one_sentence_and_nothing_is_written(words, fragments, place):
    found, files = said(words, place)
    assert is_one_sentence(found), found
    assert all(fragment in found.stderr for fragment in fragments), found.stderr
    assert (found.status, files) == (2, [])


@pytest.mark.parametrize(("words", "fragments"), [(words, rest) for words, *rest in VALUES], ids=str)
def test_a_wrong_key_or_value_is_one_sentence(words, fragments, place):
    overrides = with_good_vectors(shlex.split(words), place)
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        try:
            cfg = compose(CONFIG_NAME, overrides)
            check(cfg, overrides, loader)
            check_targets(cfg)
        except Exception as error:  # noqa: BLE001 - whatever it is, the command explains it or shows a traceback
            sentence = explain(error) or ""
        else:
            sentence = ""
    assert sentence
    assert "\n" not in sentence
    assert all(fragment in sentence for fragment in fragments), sentence


def test_a_value_may_take_the_place_of_one_that_follows_from_what_must_be_given(place):
    overrides = with_good_vectors(["logger=wandb", "logger.wandb.save_dir=elsewhere"], place)
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        check(compose(CONFIG_NAME, overrides), overrides, GlobalHydra.instance().config_loader())


@cache
def composed(choices: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        return compose(CONFIG_NAME, list(choices))


@pytest.mark.parametrize(("words", "fragments"), [(words, rest) for words, *rest in RANGES], ids=str)
def test_a_value_out_of_its_range_is_one_sentence(words, fragments):
    parsed = OverridesParser.create().parse_overrides(shlex.split(words))
    is_choice = [(PROJECT_ROOT / "conf" / override.key_or_group).is_dir() for override in parsed]
    choices = [override.input_line for override, chosen in zip(parsed, is_choice, strict=True) if chosen]
    cfg = composed(tuple(choices)).copy()
    for override, chosen in zip(parsed, is_choice, strict=True):
        if not chosen:
            OmegaConf.update(cfg, override.key_or_group, override.value(), force_add=override.is_add())
    assert not list(faults(limited(composed(tuple(choices)))))
    sentence = next(faults(limited(cfg)))  # which the command refuses it with
    assert all(fragment in sentence for fragment in fragments), sentence


@pytest.mark.parametrize(("words", "fragments"), [(words, rest) for words, *rest in LATER], ids=str)
def test_wrong_data_are_one_sentence_and_a_failed_row_at_most(words, fragments, place):
    found, files = said(words, place)
    assert is_one_sentence(found), found
    assert all(fragment in found.stderr for fragment in fragments), found.stderr
    assert found.status in (1, 2)
    assert {json.loads(file.read_text())["status"] for file in files if file.name == "result.json"} <= {"failed"}
    assert not [file for file in files if file.suffix in (".ckpt", ".safetensors", ".parquet", ".partial")]


def test_what_was_there_before_is_there_after_a_refusal(place):
    before = {file: file.read_bytes() for file in place.glob("*") if file.is_file()}
    said("optim.optimizer.lr=-1", place)
    assert {file: file.read_bytes() for file in place.glob("*") if file.is_file()} == before
    assert (PROJECT_ROOT / "conf").is_dir()
    assert not (place / "runs").exists()
