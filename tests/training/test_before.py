"""R@1 before training: measured once for all runs that start alike, and never of weights that are trained already."""

import json

import pytest
from composition import composition
from killed import killed_at
from vectors import SMALL

from tcm_bench.runs.run import execute
from tcm_bench.training.before import RecallBefore

PIXELS = ["data.splits.images_per_class=2", "data.loader.classes_per_batch=8", "data.loader.images_per_class=2"]
PIXELS += ["data.loader.seen_classes=20", "data.loader.batches_per_epoch=2", "model/backbone=resnet_small"]
PIXELS += ["model.freeze=none", "machine.threads=1"]


def test_it_is_measured_once_and_never_of_weights_that_have_moved(tmp_path, monkeypatch):
    def run(*words: str):
        places = [f"paths.output_dir={tmp_path}", f"paths.cache_dir={tmp_path / 'cache'}"]
        return execute(*composition(*SMALL, *PIXELS, *places, *words))

    kept = tmp_path / "cache"
    with killed_at(4):  # of the second epoch
        run("tcm=paper")
    (file,) = kept.glob("before-*.json")
    value = json.loads(file.read_text())["recall_at_1"]
    assert 0 < value < 1

    measure = RecallBefore._measured
    monkeypatch.setattr(RecallBefore, "_measured", lambda *_: pytest.fail("it is known already"))
    assert run("tcm=none").metrics["recall_at_1_before"] == value  # from the file
    file.unlink()
    assert run("tcm=paper").metrics["recall_at_1_before"] == value  # from the checkpoint

    monkeypatch.setattr(RecallBefore, "_measured", measure)
    file.write_text('{"recall_at_1": ')
    assert run("tcm=none", "force=true").metrics["recall_at_1_before"] == value  # again, of a damaged file
    assert json.loads(file.read_text())["recall_at_1"] == value
    other = run("tcm=none", "seed=1").metrics["recall_at_1_before"]  # of another network
    assert other != value
    assert len(list(kept.glob("before-*.json"))) == 2
