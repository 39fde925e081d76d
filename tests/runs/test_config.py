"""The configuration: everything composes, names are stable, nonsense is refused with one sentence."""

import re
import shutil
import subprocess
import sys
from functools import cache
from itertools import zip_longest

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from tcm_bench.runs.build import ConfigurationError, build
from tcm_bench.runs.errors import explain
from tcm_bench.runs.naming import FACTORS, PROJECT_ROOT, comparison_id, science
from tcm_bench.runs.provenance import source_sha256

CONF = PROJECT_ROOT / "conf"
NO_OPTIONS = {"hydra/job_logging", "hydra/hydra_logging"}  # composed by every other test


def options():
    """Every `group=option` that a user can type, found by looking."""
    for path in sorted(CONF.rglob("*.yaml")):
        group = path.parent.relative_to(CONF).as_posix()
        if group not in {".", *NO_OPTIONS} and not path.stem.startswith("_"):
            yield group, path.stem


def experiments(*datasets):
    """Names of the experiments on these datasets."""
    return [o for g, o in options() if g == "experiment" and o.startswith(datasets)]


@pytest.fixture(scope="module", autouse=True)
def hydra():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@cache  # no test changes what it gets, and what an interpolation stands for is asked for anew each time
def composed(*overrides):
    return compose("config", overrides=list(overrides))


def rows():
    """Every option in a composition with one of each other group, but for sweeps and what they are made of.

    `tests/runs/test_sweep_checks.py` has those. Of a backbone depends what can be made of images, so it goes alone.
    """
    found = {}
    for group, option in options():
        if group not in ("experiment", "evidence", "sweep"):
            found.setdefault(group, []).append(f"{group}={option}")
    yield from ([word] for word in found.pop("model/backbone"))
    yield from (list(filter(None, row)) for row in zip_longest(*found.values()))


@pytest.mark.parametrize("words", list(rows()), ids=" ".join)
def test_every_option_of_every_group_composes_and_resolves(words):
    made_by_prepare = ("data=emoji_full", "data=icons_full", "data=mnist", "data=mnist_closed")
    needs = {
        **{name: ["data.sha256=none"] for name in made_by_prepare},
        "tcm=chosen": [
            f"chosen.{side}_{what}=0.5" for side in ("positive", "negative") for what in ("margin", "weight")
        ],
        "data=folder": ["data.root=conf"],
        "data=features": ["data.file=train.py"],
        "data=table": ["data.file=train.py"],
        "optim/schedule=multi_step": ["optim.schedule.milestones=[1]"],
        "model/backbone=own_weights": ["model.backbone.weights.file=train.py"],
        "model/backbone=none": ["data=features", "data.file=train.py"],
    }
    own = [word.replace("debug=", "+debug=") for word in words]
    cfg = composed(*own, *(need for word in words for need in needs.get(word, [])))
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert len(plain["run_id"]) == 12


def test_sixteen_comparisons_of_the_paper_differ_in_name_and_each_has_two_arms():
    names = experiments("cub", "cars", "sop", "inat")
    assert len(names) == 16
    arms = {tcm: [composed(f"+experiment={name}", f"tcm={tcm}") for name in names] for tcm in ("none", "paper")}
    assert len({cfg.run_id for cfgs in arms.values() for cfg in cfgs}) == 32
    ids = {tcm: [comparison_id(cfg) for cfg in cfgs] for tcm, cfgs in arms.items()}
    assert ids["none"] == ids["paper"]
    assert len(set(ids["none"])) == 16


def test_the_paper_sweep_lists_every_experiment():
    sweep = OmegaConf.load(CONF / "sweep" / "paper.yaml").hydra.sweeper.params["+experiment"]
    assert sorted(name.strip() for name in sweep.split(",")) == experiments("cub", "cars", "sop", "inat")


def test_all_that_sweeps_are_made_of_is_in_one():
    axes = [OmegaConf.load(file).hydra.sweeper.params for file in (CONF / "sweep").glob("*.yaml")]
    for group in ("experiment", "evidence"):
        named = ",".join(axis.get(f"+{group}", "") for axis in axes)
        assert set(re.findall(r"\w+", named)) == {name for kind, name in options() if kind == group}


def test_a_run_keeps_its_name_wherever_it_runs_and_changes_it_with_what_decides_its_numbers():
    name = composed().run_id
    elsewhere = [  # in one composition: any of them alone would move the hash
        "machine=gpu",
        "paths.output_dir=/elsewhere",
        "paths.data_dir=/elsewhere",
        "paths.weights_dir=/elsewhere",
        "paths.cache_dir=/elsewhere",
        "data.root=/elsewhere",
        "force=true",
        "machine.threads=7",
        "machine.chunk_size=8",
        "machine.test_batch_size=3",
        "logger=wandb",
        "trusted_packages=[mine]",
    ]
    assert composed(*elsewhere).run_id == name
    science_changes = [
        "seed=1",
        "tcm=none",
        "loss=rs_at_k",
        "data=emoji",
        "optim.optimizer.lr=0.1",
        "trainer.max_epochs=2",
    ]
    names = {composed(change).run_id for change in [*science_changes, "tcm.positive_margin=0.8"]}
    assert len(names | {name}) == 8


def test_a_comparison_spans_seeds_and_arms_and_nothing_else():
    name = comparison_id(composed())
    assert comparison_id(composed("seed=1", "tcm=none", "tcm.positive_margin=0.8")) == name
    assert comparison_id(composed("optim.optimizer.lr=0.1")) != name


def test_features_are_named_by_their_content_not_their_path(tmp_path):
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    first.write_bytes(b"one")
    shutil.copy(first, second)
    name = composed("data=features", f"data.file={first}").run_id
    assert composed("data=features", f"data.file={second}").run_id == name
    second.write_bytes(b"two")
    assert composed("data=features", f"data.file={second}").run_id != name
    labeled = {composed("data=features", f"data.file={first}", f"data.labels={f}").run_id for f in (first, second)}
    assert len(labeled | {name}) == 3
    shutil.copy(first, second)
    assert composed("data=features", f"data.file={first}", f"data.labels={second}").run_id in labeled


def test_weights_of_ones_own_are_named_by_their_content_not_their_path(tmp_path):
    first, second = tmp_path / "a.pt", tmp_path / "b.pt"
    first.write_bytes(b"one")
    shutil.copy(first, second)

    def named(file):
        cfg = composed("model/backbone=own_weights", f"model.backbone.weights.file={file}")
        assert str(tmp_path) not in str(science(cfg))
        return cfg.run_id

    name = named(first)
    assert named(second) == name
    second.write_bytes(b"two")
    assert named(second) != name


def test_code_of_ones_own_names_a_run_by_its_source_and_the_permission_for_it_does_not(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    edited = []
    for text in ("x = 1", "x = 2"):
        (tmp_path / "own_code.py").write_text(text)
        source_sha256.cache_clear()  # as in another process
        cfgs = [composed("loss._target_=own_code.Loss", f"trusted_packages=[{p}]") for p in ("own_code", "")]
        edited.append({cfg.run_id for cfg in cfgs})
    arms = (composed("loss._target_=own_code.Loss", tcm) for tcm in ("tcm=none", "tcm=paper"))
    assert len(set(map(comparison_id, arms))) == 1
    assert [len(names) for names in edited] == [1, 1]
    assert edited[0] != edited[1]
    assert "_source_" not in str(science(composed()))  # the project's own libraries are named by their versions
    assert comparison_id(composed("tcm._target_=own_code.TCM")) == comparison_id(composed())


def test_science_holds_no_path_of_this_machine():
    assert str(PROJECT_ROOT) not in str(science(composed()))


def test_baseline_is_the_same_code_with_both_weights_zero():
    none, paper = composed("tcm=none").tcm, composed("tcm=paper").tcm
    assert (none.positive_weight, none.negative_weight) == (0, 0)
    same = {key: value for key, value in paper.items() if not key.endswith("weight")}
    assert {key: none[key] for key in same} == same


def test_targets_outside_the_trusted_packages_are_refused():
    node = OmegaConf.create({"x": {"_target_": "os.system", "command": "true"}})
    with pytest.raises(ConfigurationError, match=r"x\._target_=os\.system is outside the trusted packages"):
        build(node.x)
    with pytest.raises(ConfigurationError, match=r"x\.inner\._target_=builtins\.eval"):
        build(OmegaConf.create({"x": {"_target_": "torch.nn.Identity", "inner": {"_target_": "builtins.eval"}}}).x)
    own = OmegaConf.create({"x": {"_target_": "fractions.Fraction", "numerator": 3}})
    assert build(own.x, ["fractions"]) == 3


def test_a_key_that_a_constructor_does_not_take_is_refused_with_the_nearest():
    node = OmegaConf.create({"optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "wieght_decay": 1}})
    with pytest.raises(ConfigurationError, match=r"takes no 'optimizer\.wieght_decay'; did you mean 'weight_decay'"):
        build(node.optimizer)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["loss=smoth_ap"], "there is no loss=smoth_ap; did you mean 'smooth_ap'?"),
        (["model/backbone=resnet5"], "there is no model/backbone=resnet5; did you mean 'resnet50'?"),
        (["+experiment=cub_resnet50_smooth_app"], "did you mean 'cub_resnet50_smooth_ap'?"),
    ],
)
def test_a_misspelt_option_is_named_with_the_nearest(overrides, sentence):
    with pytest.raises(HydraException) as caught:
        composed(*overrides)
    assert sentence in explain(caught.value)


def train(*overrides, cwd=PROJECT_ROOT):
    """The real command; returns status and stderr."""
    ran = subprocess.run(
        [sys.executable, str(PROJECT_ROOT / "train.py"), *overrides],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    return ran.returncode, ran.stderr


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["+sed=3"], "error: unknown key 'sed'; did you mean 'seed'?\n"),
        (["data=folder", "data.root=/x/größe"], """: quote it for the shell and for Hydra: 'data.root="/x/größe"'\n"""),
        (["data=folder", "data.root=~/x"], ": name your home folder in full, as by data.root=$HOME/x\n"),
        (["data=folder", "data.root=/x/a (1)"], """: quote it for the shell and for Hydra: 'data.root="/x/a (1)"'\n"""),
        (["-m", "sed=0,1"], "error: unknown key 'sed'; did you mean 'seed'?\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_on_the_command_line_gets_one_sentence_and_status_2(overrides, sentence, tmp_path):
    """By the installed command; tests/runs/test_bad_inputs.py has every kind of mistake."""
    status, stderr = train(*overrides, f"paths.output_dir={tmp_path}")
    assert status == 2
    assert sentence in stderr
    assert stderr.count("\n") == 1, stderr
    assert not list(tmp_path.glob("runs/*"))


def test_a_sweep_without_its_data_says_once_for_each_set_how_to_get_it(tmp_path):
    status, stderr = train(
        "-m", "data=cub,sop,icons", "seed=0,1", "tcm=none,paper", f"paths.data_dir={tmp_path}",
        f"paths.output_dir={tmp_path / 'out'}",
    )  # fmt: skip
    assert status == 2
    assert stderr.count("\n") == 1, stderr
    for name in ("cub", "sop"):
        assert stderr.count(f"`tcm-bench data prepare {name} --root {tmp_path / name}`") == 1
    assert not (tmp_path / "out").exists()


def test_showing_the_configuration_runs_nothing(tmp_path):
    status, stderr = train("--cfg", "job", f"paths.output_dir={tmp_path / 'out'}")
    assert (status, stderr) == (0, "")
    assert not (tmp_path / "out").exists()


def test_the_help_offers_every_choice_and_no_part_of_one():
    ran = subprocess.run([sys.executable, "train.py", "--help"], capture_output=True, text=True, cwd=PROJECT_ROOT)
    assert ran.returncode == 0, ran.stderr
    groups = ran.stdout.partition("Groups to choose from")[2].partition("Values")[0]
    offered = {
        (group, name) for group, names in re.findall(r"^(\S+): (.+)$", groups, re.M) for name in names.split(", ")
    }
    hydras_own = {("hydra/launcher", "basic"), ("hydra/launcher", "joblib"), ("hydra/sweeper", "basic")}
    assert offered == set(options()) | hydras_own


def test_factors_are_groups():
    assert all((CONF / group).is_dir() for group in FACTORS.values())


def test_a_function_that_a_trusted_module_merely_imported_is_refused():
    node = OmegaConf.create({"x": {"_target_": "tcm_bench.data.features.np.load", "file": "x", "allow_pickle": True}})
    with pytest.raises(ConfigurationError, match="at home in numpy, outside the trusted packages"):
        build(node.x)
