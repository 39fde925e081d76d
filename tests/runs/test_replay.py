"""A run that diverges leaves the batch at which it did, and `tcm-bench replay` computes that very batch again."""

import math
from pathlib import Path

import pytest
import torch
from command_line import sentence, tcm_bench
from composition import composition
from vectors import SMALL, head, write_vectors

from tcm_bench.data.sampler import ClassBalancedSampler
from tcm_bench.results import ledger
from tcm_bench.runs.build import build
from tcm_bench.runs.replay import replayed
from tcm_bench.runs.run import execute
from tcm_bench.training.diverged import DIVERGED, read_diverged

OWN_LOSS = '''
from tcm_bench.losses.smooth_ap import SmoothAP


class Loss(SmoothAP):
    """Infinite where it is below a limit, which takes some steps."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def forward(self, pairs):
        value = super().forward(pairs)
        return value / (value > self.limit)
'''
PIXELS = ["data=kanji", "data.splits.images_per_class=3", "data.loader.classes_per_batch=8"]
PIXELS += ["model/backbone=resnet_small", "model.freeze=none", "trainer.precision=bf16-mixed"]
PLANES = ["data.loader.images_per_class=3", "model.head.embedding_dim=16", "machine.threads=1", "tcm=none"]


def diverged(output: Path, *words: str) -> tuple[Path, str]:
    """The folder of a run that diverges, and what it said."""
    cfg, chosen = composition(*SMALL, f"paths.output_dir={output}", *words)
    with pytest.raises(ValueError, match="training diverged") as raised:
        execute(cfg, chosen)
    drawn = ClassBalancedSampler(
        build(cfg.data.splits).train.labels, classes_per_batch=8, images_per_class=3, batches_per_epoch=5
    )
    stopped = read_diverged(Path(cfg.run_dir))
    drawn.set_epoch(stopped.epoch)
    assert stopped.indices.tolist() == list(drawn)[stopped.batch]
    return Path(cfg.run_dir), str(raised.value)


def own_loss(limit: float, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (folder / "shy.py").write_text(OWN_LOSS)
    monkeypatch.syspath_prepend(folder)
    return ["loss._target_=shy.Loss", "~loss.temperature", f"+loss.limit={limit}", "trusted_packages=[shy]"]


def test_an_infinite_loss_is_told_with_its_step_and_replayed_to_the_same_terms(tmp_path, monkeypatch):
    words = [*head(write_vectors(tmp_path)), *PLANES, "optim.optimizer.lr=0.01", *own_loss(0.05, tmp_path, monkeypatch)]
    run_dir, said = diverged(tmp_path, *words)
    stopped = read_diverged(run_dir)
    assert 0 < stopped.step == 5 * stopped.epoch + stopped.batch
    assert f"by step {stopped.step} (epoch {stopped.epoch}, batch {stopped.batch}) at a learning rate of 0.0" in said
    assert "the loss is not finite though every embedding is, loss inf, base inf, tcm 0" in said
    assert "lower optim.optimizer.lr" in said
    assert said.endswith(f"; `tcm-bench replay {run_dir}` computes this batch again")
    assert ledger.read_result(run_dir).reason == f"ValueError: {said}"

    again = replayed(run_dir, ["shy"])
    assert again.terms == stopped.terms
    assert again.terms["base"] == math.inf
    assert again.broken_weights == []

    shown = tcm_bench("replay", run_dir, "--trusted-package", "shy")
    assert shown.exit_code == 0, shown.output
    assert f"epoch {stopped.epoch}, batch {stopped.batch}, after {stopped.step} steps" in shown.stdout
    assert "embeddings not finite: 0 of 24" in shown.stdout
    words = {word for line in shown.stdout.partition("items")[2].splitlines() for word in line.split()}
    assert set(map(str, stopped.indices.tolist())) <= words
    assert "outside the trusted packages" in sentence("replay", run_dir)


def test_a_batch_of_augmented_images_is_replayed_in_the_precision_of_the_run(tmp_path, monkeypatch):
    run_dir, said = diverged(tmp_path, *PIXELS, *PLANES, *own_loss(1.0, tmp_path, monkeypatch))
    assert "no step has been taken yet" in said
    stopped = read_diverged(run_dir)
    again = replayed(run_dir, ["shy"])
    assert again.terms == stopped.terms
    assert 0 < again.terms["tcm_positive"] < 2  # of the embeddings, to the last digit


def test_weights_that_a_step_has_broken_are_told(tmp_path):
    run_dir, said = diverged(tmp_path, *head(write_vectors(tmp_path)), *PLANES, "optim.optimizer.lr=1e38")
    assert "weights that are not finite, embedder.head.linear." in said
    again = replayed(run_dir)
    assert "embedder.head.linear.weight" in again.broken_weights
    assert not torch.isfinite(again.embeddings).all()
    assert "weights not finite: embedder.head.linear." in tcm_bench("replay", run_dir).stdout


def test_a_run_whose_last_step_breaks_it_diverges_again_when_it_is_started_again(tmp_path):
    """It does not go on from broken weights, nor is it measured with those of an epoch before."""
    chosen = ["selection=best", "data.loader.validation_classes=4", "trainer.check_val_every_n_epoch=2"]
    words = [*head(write_vectors(tmp_path)), *PLANES, *chosen, "trainer.max_epochs=3", "optim/schedule=multi_step"]
    words += ["optim.schedule.milestones=[2]", "optim.schedule.gamma=1e42", "data.loader.batches_per_epoch=1"]
    said = []
    for _ in range(2):
        with pytest.raises(ValueError, match="training diverged by step 3") as raised:
            execute(*composition(*SMALL, f"paths.output_dir={tmp_path}", *words))
        said.append(str(raised.value))
    assert said[0] == said[1]


def test_a_run_that_has_not_diverged_and_a_damaged_file_are_one_sentence(tmp_path):
    (tmp_path / ledger.CONFIG).write_text("seed: 0\ndata: {}\nmodel: {head: {}, backbone: {}, freeze: none}\n")
    assert f"holds no {DIVERGED}" in sentence("replay", tmp_path)
    (tmp_path / DIVERGED).write_bytes(b"PK\3\4 cut short")
    assert f"{DIVERGED} is damaged" in sentence("replay", tmp_path)
