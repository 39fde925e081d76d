"""Labels of real configurations: what differs is said, and said once."""

from pathlib import Path

from composition import composition
from hypothesis import given
from hypothesis import strategies as st
from vectors import write_vectors

from tcm_bench.results.labels import is_base, labels, shared_by_hand
from tcm_bench.results.ledger import Run, science_hash
from tcm_bench.runs.naming import PROJECT_ROOT, plan


def planned(*words: str) -> Run:
    return plan(*composition(*words))


def called(*commands: str):
    return labels([planned(*command.split()) for command in commands])


def test_runs_with_names_of_their_own_are_called_by_them():
    (one, other) = called("data=emoji tcm=none", "data=icons loss=rs_at_k seed=3")
    assert str(one) == "data=emoji backbone=resnet50_imgsim loss=smooth_ap tcm=none seed=0"
    assert str(other) == "data=icons backbone=resnet50_imgsim loss=rs_at_k tcm=paper seed=3"


def test_a_rate_that_differs_is_named_for_both_arms_and_a_seed_is_only_a_seed():
    rates = [
        f"tcm={tcm} optim.optimizer.lr={lr} seed={seed}"
        for lr in ("1e-3", "1e-2")
        for tcm in ("none", "paper")
        for seed in (0, 1)
    ]
    found = called(*rates)
    assert [label.setting for label in found] == ["lr=0.001"] * 4 + ["lr=0.01"] * 4
    assert [label.tcm for label in found] == ["none", "none", "paper", "paper"] * 2
    assert [label.seed for label in found] == ["0", "1"] * 4


def test_margins_are_part_of_the_tcm_setting():
    runs = [
        planned(f"tcm={tcm}", f"tcm.negative_margin={margin}") for tcm in ("none", "paper") for margin in (0.3, 0.4)
    ]
    assert [label.tcm for label in labels(runs)] == [
        f"{tcm} negative_margin={m}"
        for tcm in ("none", "own")
        for m in (0.3, 0.4)  # the article has neither margin
    ]
    assert {label.setting for label in labels(runs)} == {""}
    assert [is_base(run) for run in runs] == [True, True, False, False]
    assert not is_base(planned("tcm=none", "tcm.positive_weight=0.5"))
    assert is_base(planned("tcm=paper", "tcm.positive_weight=0", "tcm.negative_weight=0"))


def test_an_option_stands_for_all_that_it_brings_and_a_file_for_its_content(tmp_path):
    first = write_vectors(tmp_path)
    second = tmp_path / "second.npz"
    second.write_bytes(first.read_bytes() + b" ")
    optimizers = called("optim/optimizer=adamw", "optim/optimizer=sgd")
    assert [label.setting for label in optimizers] == ["optimizer=adamw", "optimizer=sgd"]
    both = called("optim/optimizer=adamw optim.optimizer.lr=1", "optim/optimizer=sgd optim.optimizer.lr=2")
    assert [label.setting for label in both] == ["optimizer=adamw lr=1", "optimizer=sgd lr=2"]
    files = called(*(f"data=features data.file={path}" for path in (first, second)))
    assert [label.setting for label in files] == ["file=mine.npz", "file=second.npz"]
    assert str(tmp_path) not in str(files)


def test_a_value_that_others_repeat_is_said_once_and_what_was_set_by_hand_comes_first():
    found = called(*(f"loss=proxy_anchor model.head.embedding_dim={dim} trainer.max_epochs={dim}" for dim in (16, 32)))
    assert [label.setting for label in found] == [
        f"embedding_dim={n} max_epochs={n}" for n in (16, 32)
    ]  # not embedding_size


def test_a_key_alike_to_another_is_named_by_more_of_its_path():
    found = called("metrics.evaluation.c=1.0", "metrics.evaluation.c=2.0", "metrics.evaluation.eps=0.2")
    assert [label.setting for label in found] == ["c=1.0 eps=0.1", "c=2.0 eps=0.1", "c=1.0 eps=0.2"]
    targets = called("optim.optimizer._target_=torch.optim.Adam", "optim.optimizer._target_=torch.optim.AdamW")
    assert [label.setting.split("=")[0] for label in targets] == ["optimizer._target_"] * 2


def test_code_of_ones_own_is_called_by_its_name():
    (label,) = called("loss._target_=mine.Loss")
    assert label.loss == "mine.Loss"
    assert label.setting == ""


def test_what_all_share_is_no_label():
    runs = [planned("trainer.max_epochs=2", f"optim.optimizer.lr={lr}") for lr in (1, 2)]
    assert shared_by_hand(runs) == {"trainer.max_epochs": "2"}
    assert shared_by_hand([]) == {}


leaves = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.1, 0.2, "a", "b", [1], [1, 2]]))
nodes = st.dictionaries(st.sampled_from("abc"), st.one_of(leaves, st.dictionaries(st.sampled_from("xyz"), leaves)))
sciences = st.fixed_dictionaries(
    {"data": nodes, "loss": nodes, "tcm": nodes, "seed": st.integers(0, 2), "name": st.sampled_from("pq")}
)


@given(st.lists(sciences, min_size=2, max_size=8))
def test_runs_of_other_science_never_share_a_label(several):
    runs = []
    for science in several:
        rest = {key: value for key, value in science.items() if key not in ("tcm", "seed")}
        names = {"data": science["name"], "backbone": "b", "loss": "l", "tcm": "t", "seed": science["seed"]}
        runs.append(Run(run_id=science_hash(science), comparison_id=science_hash(rest), choices=names, science=science))
    found = labels(runs)
    ids = [run.run_id for run in runs]
    assert len(set(found)) == len(set(ids))
    assert len(set(zip(found, ids, strict=True))) == len(set(ids))
    tasks = {(label.data, label.setting) for label in found}
    assert len(tasks) == len({run.comparison_id for run in runs})


def test_old_rows_go_by_what_was_chosen():
    names = {"data": "emoji", "backbone": "b", "loss": "l", "tcm": "paper", "seed": 0}
    runs = [Run(run_id=str(m), comparison_id="c", choices={**names, "tcm.negative_margin": str(m)}) for m in (0.3, 0.4)]
    assert [label.tcm for label in labels(runs)] == ["own negative_margin=0.3", "own negative_margin=0.4"]


def test_every_experiment_has_a_label_of_its_own():
    names = sorted(path.stem for path in Path(PROJECT_ROOT / "conf" / "experiment").glob("[!_]*.yaml"))
    made_by_prepare = {"mnist_toy": ["data.sha256=none"]}
    found = labels([planned(f"+experiment={name}", *made_by_prepare.get(name, [])) for name in names])
    assert len(set(found)) == len(names)
    assert {label.setting for label in found} == {""}  # data, backbone and loss say which


def test_files_of_one_name_and_other_bytes_are_not_shared():
    def of(digest: str) -> Run:
        science = {"data": {"file": "<file>", "sha256": digest}}
        return Run(run_id=digest, comparison_id=digest, choices={"data.file": "mine.npz"}, science=science)

    assert shared_by_hand([of("a"), of("a")]) == {"data.file": "mine.npz"}
    assert shared_by_hand([of("a"), of("b")]) == {}
