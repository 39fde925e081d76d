"""The figure of the classes' rates under one threshold."""

import numpy as np
import pytest
import torch

from tcm_bench.evaluation.deployment import Deployment
from tcm_bench.report.deployed import deployment_figure


def found(class_far: list[float], rate: str = "far") -> Deployment:
    labels = torch.arange(len(class_far))
    rates = torch.tensor(class_far, dtype=torch.float64)
    return Deployment(rate, 0.01, "similarity", 0.5, 0.01, 0.4, 0.6, labels, labels, 0.01, 0.1, rates, rates)  # type: ignore[arg-type]


def test_classes_without_a_false_accept_lie_at_one_edge_for_both_networks():
    figure = deployment_figure({"base": found([0.0, 0.02, 0.3]), "tcm": found([0.0, 0.0, 0.00004])})
    base, tcm = figure.axes[0].lines[:2]
    assert base.get_xdata() == pytest.approx([0.001, 2, 30])
    assert tcm.get_xdata() == pytest.approx([0.001, 0.001, 0.004])
    assert np.asarray(figure.axes[1].lines[1].get_xdata()).min() == 0  # that axis is linear


@pytest.mark.parametrize("rate", ["far", "frr"])
def test_the_legend_names_the_wanted_rate_whichever_panel_it_is_in(rate):
    figure = deployment_figure({"base": found([0.0, 0.02], rate)})
    assert [text.get_text() for text in figure.legends[0].texts] == ["base", "wanted"]


def test_the_edge_is_named_0_where_a_class_accepts_none():
    for rates, first in (([0.0, 0.02], "0"), ([0.01, 0.02], "0.1")):
        panel = deployment_figure({"base": found(rates)}).axes[0]
        low, _ = panel.get_xlim()
        assert low == pytest.approx({"0": 1, "0.1": 0.1}[first])
        assert panel.xaxis.get_major_formatter()(low, 0) == first
