"""Learning-rate factors at hand-computed places."""

import math

import pytest

from tcm_bench.training.schedules import Constant, Cosine, MultiStep


def test_cosine_falls_from_one_to_zero_along_half_a_wave():
    factors = [Cosine()(epoch, 8) for epoch in (0, 2, 4, 6, 8)]
    assert factors == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0], abs=1e-15)
    assert Cosine()(9, 8) == 0  # a resumed run with fewer epochs does not come back up


def test_warm_up_rises_linearly_and_the_cosine_begins_at_its_end():
    schedule = Cosine(warmup_epochs=2)
    assert [schedule(epoch, 6) for epoch in (0, 0.5, 1, 2, 4, 6)] == pytest.approx([0, 0.25, 0.5, 1, 0.5, 0])


def test_multi_step_multiplies_from_each_milestone_on():
    schedule = MultiStep(milestones=(2, 5), gamma=0.1)
    assert [schedule(epoch, 9) for epoch in (0, 1.99, 2, 4.99, 5, 9)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_constant_stays():
    assert {Constant()(epoch, 3) for epoch in (0, 1.5, 3)} == {1.0}
