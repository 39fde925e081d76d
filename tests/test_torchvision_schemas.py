"""The cure for a torchvision whose C++ library cannot be loaded, tried on a stand-in that behaves like it."""

import subprocess
import sys

import pytest

SHAPE_FUNCTIONS = """
import torch
@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold): return dets.new_empty(3, dtype=torch.long)
@torch.library.register_fake("torchvision::qnms")
def qnms(dets, scores, iou_threshold): return dets.new_empty(3, dtype=torch.long)
"""
OWN_SCHEMAS = """
import torch
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


@pytest.fixture
def python(tmp_path):
    """Runs code in a new interpreter that sees a stand-in torchvision; returns the finished process."""
    package = tmp_path / "torchvision"
    package.mkdir()

    def run(code: str, extension: str) -> subprocess.CompletedProcess[str]:
        (package / "__init__.py").write_text("from torchvision import extension, _meta_registrations\n")
        (package / "extension.py").write_text(extension)
        (package / "_meta_registrations.py").write_text(SHAPE_FUNCTIONS)
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"
        command = [sys.executable, "-W", "error", "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def test_without_the_cure_a_torchvision_without_operators_fails(python):
    process = python("import torchvision", extension="")
    assert process.returncode == 1
    assert "operator torchvision::nms does not exist" in process.stderr


def test_the_cure_declares_both_operators_and_waits_until_they_are_needed(python):
    process = python(
        "import tcm_bench.torchvision_schemas\n"
        "assert 'torch' not in sys.modules and 'torchvision' not in sys.modules\n"
        "import torchvision, torch\n"
        "boxes = torch.empty(5, 4, device='meta')\n"
        "for name in ('nms', 'qnms'):\n"
        "    print(tuple(getattr(torch.ops.torchvision, name)(boxes, boxes[:, 0], 0.5).shape))\n",
        extension="",
    )
    assert process.stderr == ""
    assert process.stdout.split("\n") == ["(3,)", "(3,)", ""]


def test_a_matching_pair_is_left_alone(python):
    process = python(
        "from tcm_bench import torchvision_schemas\n"
        "import torchvision\n"
        "print(torchvision_schemas._declared, torchvision_schemas.declare_missing_schemas())",
        extension=OWN_SCHEMAS,
    )
    assert process.stderr == ""
    assert process.stdout == "[] []\n"


def test_it_is_installed_once():
    from tcm_bench.torchvision_schemas import SchemaFinder, install

    install()
    install()
    assert sum(isinstance(finder, SchemaFinder) for finder in sys.meta_path) == 1
