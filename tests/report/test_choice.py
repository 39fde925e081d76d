"""What is chosen on held-out classes, and that the test classes have no part in it."""

import math

import pandas as pd
import pytest

from tcm_bench.report.choice import choices, write_choices


@pytest.fixture
def tried(run):
    """Makes the row of one setting of TCM on one base setting: held-out (R@1, OPIS), and another on the test."""

    def make(tcm, lr, held_out, test=(0.5, 0.03), seed=0, loss="smooth_ap"):
        weight = {"none": 0.0}.get(tcm, 1.0)
        science = {
            "seed": seed,
            "optim": {"lr": lr},
            "loss": {"name": loss},
            "tcm": {
                "positive_weight": weight,
                "negative_weight": weight,
                "negative_margin": 0.5 if tcm == "none" else tcm,
            },
        }
        return run(
            "none" if tcm == "none" else "paper",
            seed,
            loss=loss,
            choices={"optim.lr": str(lr), "tcm.negative_margin": str(tcm)},
            row={"science": science, "run_id": f"{tcm}-{lr}-{seed}-{loss}", "comparison_id": f"{lr}-{loss}"},
            recall_at_1_val=held_out[0],
            opis_val=held_out[1],
            recall_at_1=test[0],
            opis=test[1],
            threshold={"strictest_cosine_val": 0.6 + lr},
        )

    return make


def test_the_baseline_is_of_least_opis_among_those_of_best_retrieval_and_tcm_of_least_opis_that_keeps_it(tried):
    rows = [
        tried("none", 0.3, (0.7195, 0.031)),  # retrieval as good, OPIS not
        tried("none", 0.1, (0.70, 0.020)),
        tried("none", 0.2, (0.72, 0.030)),
        tried(0.4, 0.1, (0.75, 0.001)),  # of another base setting
        tried(0.5, 0.2, (0.719, 0.025)),
        tried(0.6, 0.2, (0.718, 0.020)),  # just within 0.2 points
        tried(0.7, 0.2, (0.717, 0.010)),  # beyond
    ]
    (found,) = choices(rows)
    assert (found.base.recall_val, found.base.opis_val) == (0.72, 0.030)
    assert (found.tcm.recall_val, found.tcm.opis_val) == (0.718, 0.020)
    (strict,) = choices(rows, tolerance=0.0011)
    assert strict.tcm.opis_val == 0.025
    (none,) = choices(rows, tolerance=0.0)
    assert none.tcm is None


def test_of_baselines_of_about_the_best_retrieval_the_one_of_least_opis_is_chosen(tried):
    held_out = [(0.72, None), (0.72, 0.03), (0.7181, 0.02), (0.7179, 0.01)]  # the first of undefined OPIS
    rows = [tried("none", lr, one) for lr, one in enumerate(held_out)]
    (found,) = choices(rows)
    assert (found.base.recall_val, found.base.opis_val) == (0.7181, 0.02)
    (strict,) = choices(rows, tolerance=0.0)
    assert strict.base.recall_val == 0.72


def test_a_setting_of_fewer_seeds_is_not_chosen(tried):
    rows = [tried(tcm, 0.1, (0.70, opis), seed=seed) for tcm, opis in (("none", 0.02), (0.5, 0.018)) for seed in (0, 1)]
    lucky = [tried("none", 0.2, (0.75, 0.01)), tried(0.6, 0.1, (0.75, 0.001))]
    more = [tried(0.7, 0.1, (0.70, 0.019), seed=seed) for seed in (0, 1, 2)]
    (found,) = choices(rows + lucky + more)
    assert (found.base.seeds, found.base.recall_val, found.tcm.opis_val) == (2, pytest.approx(0.70), 0.018)


def test_tcm_that_keeps_retrieval_but_raises_opis_is_no_choice(tried):
    rows = [tried("none", 0.1, (0.70, 0.020)), tried(0.5, 0.1, (0.75, 0.020)), tried(0.6, 0.1, (0.75, 0.021))]
    (found,) = choices(rows)
    assert found.tcm is None


def test_what_came_out_on_the_test_has_no_part_in_it(tried):
    def rows(*test):
        held_out = [(0.7, 0.03), (0.7, 0.02), (0.7, 0.01)]
        arms = zip(("none", 0.5, 0.6), held_out, test, strict=True)
        return [tried(tcm, 0.1, one, (0.5, opis)) for tcm, one, opis in arms]

    for test in ((0.01, 0.02, 0.03), (0.03, 0.02, 0.01)):
        (found,) = choices(rows(*test))
        assert found.tcm.opis_val == 0.01
        assert found.tcm.opis == test[2]


def test_seeds_are_averaged_and_one_without_a_value_counts(tried):
    rows = [tried("none", 0.1, (0.7, 0.03), seed=seed) for seed in (0, 1)]
    rows += [tried(0.5, 0.1, (0.7, opis), seed=seed) for seed, opis in ((0, 0.01), (1, 0.03))]
    rows += [tried(0.6, 0.1, (0.7, opis), seed=seed) for seed, opis in ((0, 0.01), (1, None))]
    (found,) = choices(rows)
    assert (found.tcm.opis_val, found.tcm.seeds) == (pytest.approx(0.02), 2)
    assert math.isnan(found.tried[2].opis_val)


def test_the_files_show_the_test_of_what_was_chosen_alone(tried, tmp_path):
    rows = [
        tried("none", 0.1, (0.7, 0.03), (0.111, 0.0444)),
        tried(0.5, 0.1, (0.7, 0.02), (0.222, 0.0555)),
        tried(0.6, 0.1, (0.7, 0.01), (0.333, 0.0666)),
        tried("none", 0.1, (0.7, 0.01), loss="rs_at_k"),
        tried(0.6, 0.1, (0.5, 0.001), loss="rs_at_k"),
    ]
    table, text = write_choices(rows, tmp_path, "margins")
    found = pd.read_csv(table)
    assert found["chosen"].tolist() == [True, False, True, True, False]
    said = text.read_text()
    assert "**33.3**" in said
    assert "**66.6**" in said
    assert "11.1" in said
    assert "22.2" not in said
    assert "(-67 %)" in said
    assert said.count("0.70") == 5  # where the calibration range begins, of every row
    assert "No TCM setting keeps R@1 and lowers OPIS." in said


def test_without_held_out_classes_the_sentence_says_what_to_do(run):
    with pytest.raises(ValueError, match=r"data\.loader\.validation_classes=N"):
        choices([run("none"), run("paper")])
