"""A compiled network is the same network: the run keeps its name, its files and, up to rounding, its numbers."""

import os
import shutil

import jaxtyping
import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from tcm_bench.results import ledger

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch.compile's own


def test_a_compiled_run_is_the_run_up_to_rounding(tmp_path, run, monkeypatch):
    if not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("torch.compile needs a C++ compiler: install g++")
    # torch cannot look through the checks of types that only the tests have.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    plain, folder = run(tmp_path / "plain")
    compiled, other = run(tmp_path / "compiled", "machine.compile=true")
    assert compiled.run_id == plain.run_id
    assert compiled.metrics == pytest.approx(plain.metrics, abs=1e-3)
    weights, same = (load_file(one / "weights.safetensors") for one in (folder, other))
    assert_close(same, weights, rtol=1e-3, atol=1e-4)


def test_a_network_that_cannot_be_compiled_is_told_in_a_sentence(tmp_path, run, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/no/compiler"))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    with pytest.raises(ValueError, match=r"machine\.compile=true: torch cannot compile .*machine\.compile=false"):
        run(tmp_path, "machine.compile=true")
    (folder,) = (tmp_path / "runs").iterdir()
    failed = ledger.read_result(folder)
    assert failed is not None
    assert (failed.status, failed.reason.startswith("ConfigurationError: machine.compile=true")) == ("failed", True)
