"""What TCM adds to a training step, what the losses take, and how often the host waits for the device.

    python tests/benchmarks/training.py                  losses of 384 and 4,000 items, steps of a ResNet-50 on 8 images
    python tests/benchmarks/training.py --device cuda    the same with steps on 384 images
    python tests/benchmarks/training.py --batches 96 --images 4 --size-px 64 --rounds 2    does it run?

Three parts, of which `--parts` chooses some, each printed as a table:

`losses`: forward and backward from embeddings of 512 numbers, four a class. The loss without TCM is its formula alone:
`tcm=none` computes TCM, too, with weights 0. Beside ours stand the forms that others publish: every triple of items at
once (Smooth-AP's authors, pytorch-metric-learning), rows gathered for every pair (pytorch-metric-learning's TCM), one
query after the other (RS@k's authors). What would not fit into free memory is not run, nor on a CPU what takes minutes;
its bytes are computed from those of the largest batch that did, by the power of the batch that it grows with.

`step`: the Lightning module in its trainer as `+experiment=sop_resnet50_smooth_ap` sets it up, callbacks and all, on
one batch that is already there. Beside it, in the same process and so with the same settings, the bare forward and
backward pass of the network on that batch, and a plain loop with loss and optimizer. On a CPU the batch is small, and
TCM's share is that of a step which takes as many times longer as its batch is larger.

`waits`: where a step makes the host wait. With CUDA, torch itself tells (`torch.cuda.set_sync_debug_mode`). A CPU never
waits; there it counts what would on a GPU: numbers read from tensors (`_local_scalar_dense`), shapes that depend on
them (`nonzero`, masks), and tensors made of Python's numbers (`lift_fresh`) unless they stay on the host.

Times are medians over interleaved rounds, their ratios are taken within a round, with their extremes: on a CPU of the
processor time of all threads, to which other processes add little, with CUDA of the time on the clock. Memory is
the most that was allocated at once by torch, beside what was there before.
"""

import argparse
import logging
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import tcm_bench  # noqa: F401  mends torchvision, which lightning imports

# isort: split
import lightning.pytorch as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from pytorch_metric_learning.losses import SmoothAPLoss, ThresholdConsistentMarginLoss
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection

from tcm_bench.data.batch import Batch
from tcm_bench.losses.objective import Objective
from tcm_bench.losses.pairs import Pairs
from tcm_bench.losses.rs_at_k import RSAtK
from tcm_bench.losses.smooth_ap import SmoothAP
from tcm_bench.losses.tcm import TCM
from tcm_bench.models.embedder import Embedder
from tcm_bench.runs.build import build
from tcm_bench.runs.naming import PROJECT_ROOT
from tcm_bench.training.module import RetrievalModule

sys.path.insert(0, str(Path(__file__).parents[1]))
from waits import Waits, place

DIM, PER_CLASS = 512, 4
SMALLEST = 96  # items, from which the bytes of a larger batch are first computed
ROUND_S = 0.2  # of one form, so that quick ones are called several times


def triples(x: Tensor, labels: Tensor, temperature: float = 0.01) -> Tensor:
    """Smooth-AP as its authors write it: a tensor of batch x batch x batch; classes in order and of one size."""
    itself = 1 - torch.eye(len(x), device=x.device)
    similarity = x @ x.T
    rank = 1 + (((similarity[:, None] - similarity[:, :, None]) / temperature).sigmoid() * itself).sum(dim=2)
    own = similarity.view(-1, PER_CLASS, len(x) // PER_CLASS, PER_CLASS).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    apart = 1 - torch.eye(PER_CLASS, device=x.device)
    rank_in_class = 1 + (((own[:, :, None] - own[..., None]) / temperature).sigmoid() * apart).sum(dim=3)
    of_class = rank.view(-1, PER_CLASS, len(x) // PER_CLASS, PER_CLASS).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    return 1 - (rank_in_class / of_class).mean()


def query_by_query(x: Tensor, labels: Tensor, temperature: float = 0.01) -> Tensor:
    """RS@k as its authors write it, in a loop over queries, but with the query in no rank, as here."""
    k = torch.tensor([1.0, 2, 4, 8, 16], device=x.device)
    loss = x.new_zeros(())
    for query in range(len(x)):
        place = query % PER_CLASS  # in its class
        similarity = x @ x[query]
        ahead = ((similarity[:, None] - similarity[query - place :][:PER_CLASS]) / temperature).sigmoid()
        rank = 0.5 + ahead.sum(dim=0) - ahead[query]
        of_others = torch.cat([rank[:place], rank[place + 1 :]])
        retrieved = (k - of_others[:, None]).sigmoid().sum(dim=0)
        loss = loss + 1 - (retrieved.minimum(k) / k.clamp(max=PER_CLASS - 1)).mean()
    return loss / len(x)


class Form(NamedTuple):
    """One way to compute a loss.

    Attributes:
        loss: From embeddings and labels to a scalar.
        beside: Name of the form that it is compared with.
        power: Of the batch, with which its memory grows.
        same: Whether the two are the same number.
        published: Whether others wrote it so.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    beside: str | None = None
    power: int = 2
    same: bool = True
    published: bool = False


def ours(base: torch.nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """A base loss alone."""
    return lambda x, labels: base(Pairs(x, labels))


def with_tcm(base: torch.nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """What a run minimizes."""
    objective = Objective(base, TCM())
    return lambda x, labels: objective(x, labels)["loss"]


BASES = {"Smooth-AP": SmoothAP(), "RS@k": RSAtK()}
FORMS = {
    "Smooth-AP": Form(ours(BASES["Smooth-AP"])),
    "Smooth-AP + TCM": Form(with_tcm(BASES["Smooth-AP"]), "Smooth-AP", same=False),
    "Smooth-AP, every triple": Form(triples, "Smooth-AP", power=3, published=True),
    # Right only where there are as many classes as images of each; the time is the same.
    "Smooth-AP, pytorch-metric-learning": Form(SmoothAPLoss(), "Smooth-AP", power=3, same=False, published=True),
    "RS@k": Form(ours(BASES["RS@k"])),
    "RS@k + TCM": Form(with_tcm(BASES["RS@k"]), "RS@k", same=False),
    "RS@k, query by query": Form(query_by_query, "RS@k", published=True),
    "TCM": Form(ours(TCM())),
    "TCM, pytorch-metric-learning": Form(ThresholdConsistentMarginLoss(), "TCM", published=True),
}


def embeddings(items: int, device: str) -> tuple[Tensor, Tensor]:
    """Unit rows around centers that share a direction, with hard pairs of both kinds and wrong ranks; their classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(items) // PER_CLASS
    centers = torch.randn(int(labels[-1]) + 1, DIM, generator=generator) + 2 * torch.randn(DIM, generator=generator)
    noise = torch.randn(items, DIM, generator=generator)
    x = torch.nn.functional.normalize(centers[labels] + 2 * noise)
    return x.to(device).requires_grad_(), labels.to(device)


def clock(device: str) -> float:
    """Seconds, once the device is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def peak_bytes(work: Callable[[], Any], device: str) -> int:
    """The most memory that it has at once, temporary tensors of torch's own among it."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    changes = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        peak = max(peak, held)
    return peak


def free_bytes(device: str) -> int:
    """Memory that is left."""
    if device != "cpu":
        return torch.cuda.mem_get_info()[0]
    (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def spread(ratios: Sequence[float]) -> str:
    """Median and extremes."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print it in Markdown."""
    widths = [max(map(len, column)) for column in zip((title, *columns), *rows, strict=True)]
    lines = [(title, *columns), [f"{'-' * (width - 1)}:" for width in widths], *rows]
    lines[1][0] = "-" * widths[0]
    print()
    for line in lines:
        first, *others = (cell.ljust(width) if not at else cell.rjust(width) for at, (cell, width) in
                          enumerate(zip(line, widths, strict=True)))  # fmt: skip
        print("|", " | ".join([first, *others]), "|", flush=True)


def losses(options: argparse.Namespace) -> dict[int, dict[str, float]]:
    """Print the tables of the losses; seconds that TCM adds to each base, for each batch."""
    device = options.device

    def call(form: Form, items: int) -> Callable[[], None]:
        x, labels = embeddings(items, device)

        def work() -> None:
            x.grad = None
            form.loss(x, labels).backward()

        return work

    x, labels = embeddings(SMALLEST, device)
    for name, form in FORMS.items():
        if form.same:
            torch.testing.assert_close(form.loss(x, labels), FORMS[form.beside or name].loss(x, labels), msg=name)
    known = {name: (SMALLEST, peak_bytes(call(form, SMALLEST), device)) for name, form in FORMS.items()}
    added: dict[int, dict[str, float]] = {}
    for items in sorted(options.batches):
        need = {name: peak * (items / size) ** FORMS[name].power for name, (size, peak) in known.items()}
        fits = [name for name in FORMS if need[name] < 0.7 * free_bytes(device)]
        run = [name for name in fits if items <= options.published_to or not FORMS[name].published]
        works = {name: call(FORMS[name], items) for name in run}
        known |= {name: (items, peak_bytes(work, device)) for name, work in works.items()}
        repeats = {}
        for name, work in works.items():
            begun = clock(device)
            work()
            repeats[name] = math.ceil(ROUND_S / max(clock(device) - begun, 1e-6))
        rounds: list[dict[str, float]] = []
        for _ in range(options.rounds):
            rounds.append({})
            for name, work in works.items():
                begun = clock(device)
                for _ in range(repeats[name]):
                    work()
                rounds[-1][name] = (clock(device) - begun) / repeats[name]
        rows = []
        for name, form in FORMS.items():
            other = form.beside
            if name not in run:
                why = "not run" if name in fits else "does not fit"
                size = f"{why}: {need[name] / 2**20:,.0f} MiB (computed)"
                rows.append((name, "", "", size, f"{need[name] / known[other][1]:,.0f} (computed)"))
                continue
            milliseconds = f"{1e3 * statistics.median(times[name] for times in rounds):,.2f}"
            peak = f"{known[name][1] / 2**20:,.1f} MiB"
            slower = spread([times[name] / times[other] for times in rounds]) if other else ""
            rows.append((name, milliseconds, slower, peak, f"{known[name][1] / known[other][1]:,.2f}" if other else ""))
        table(f"{items:,} x {DIM}", ("ms", "x ours, or x without TCM", "peak memory", "x ours, or x without TCM"), rows)
        added[items] = {
            base: statistics.median(times[f"{base} + TCM"] - times[base] for times in rounds) for base in BASES
        }
    return added


def experiment(folder: str, loss: str) -> DictConfig:
    """The paper's recipe with a network of random weights, which take the same time."""
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        return compose(
            "config",
            [
                f"+experiment=sop_resnet50_{loss}",
                "~model.backbone.weights",
                "+model.backbone.weights={_target_: tcm_bench.models.weights.RandomWeights}",
                f"paths.output_dir={folder}",
                "run_dir=${paths.output_dir}",
                "machine.chunk_size=null",
            ],
        )


@contextmanager
def trained(
    options: argparse.Namespace, loss: str, images: int, size_px: int, steps: int, watcher: pl.Callback
) -> Iterator[tuple[RetrievalModule, Callable[[], None], Batch]]:
    """The module of a recipe, what trains it for so many steps on one batch, and the batch."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        cfg = experiment(folder, loss)
        pl.seed_everything(cfg.seed, verbose=False)
        module = RetrievalModule(
            Embedder(build(cfg.model.backbone), build(cfg.model.head), freeze=cfg.model.freeze),
            Objective(build(cfg.loss), build(cfg.tcm)),
            MetricCollection({}),
            build(cfg.optim.optimizer),
            build(cfg.optim.schedule),
            head_lr_scale=cfg.optim.head_lr_scale,
        )
        pixels = torch.randn(images, 3, size_px, size_px).to(options.device, memory_format=torch.channels_last)
        rows = torch.arange(images, device=options.device)
        batch = Batch(pixels, rows // PER_CLASS, rows)
        trainer = build(
            cfg.trainer,
            max_epochs=1,
            accelerator={"cuda": "gpu"}.get(options.device, options.device),
            devices=1,
            default_root_dir=folder,
            logger=False,
            callbacks=[*(build(node) for node in cfg.callbacks.values()), watcher],
            enable_progress_bar=False,
            enable_model_summary=False,
        )

        def train() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trainer.fit(module, DataLoader([batch] * steps, batch_size=None))  # type: ignore[arg-type]

        yield module, train, batch


class Beside(pl.Callback):
    """Between blocks of the trainer's steps as many of other kinds, all timed; the first of each does not count."""

    def __init__(self, device: str, steps: int) -> None:
        self.device, self.steps = device, steps
        self.others: dict[str, Callable[[pl.Trainer], None]] = {}
        self.rounds: list[dict[str, float]] = []
        self._begun = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = clock(self.device)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step % self.steps:
            return
        times = {"the trainer's step": clock(self.device) - self._begun}
        for name, other in self.others.items():
            begun = clock(self.device)
            for _ in range(self.steps):
                other(trainer)
            times[name] = clock(self.device) - begun
        self.rounds.append({name: seconds / self.steps for name, seconds in times.items()})
        self._begun = clock(self.device)


BARE = "forward and backward, bare"


def step(options: argparse.Namespace) -> float:
    """Print what a step takes beside the bare network; seconds of it."""
    watcher = Beside(options.device, options.steps)
    steps = options.steps * (options.rounds + 1)
    with trained(options, "smooth_ap", options.images, options.size_px, steps, watcher) as (module, train, batch):
        with torch.no_grad():
            gradient = torch.randn_like(module.to(options.device).embedder(batch.inputs))

        def bare(trainer: pl.Trainer) -> None:
            module.zero_grad()
            with trainer.precision_plugin.forward_context():  # type: ignore[union-attr]
                embeddings = module.embed(batch.inputs)
            embeddings.backward(gradient)

        def plain(trainer: pl.Trainer) -> None:
            module.zero_grad()
            with trainer.precision_plugin.forward_context():  # type: ignore[union-attr]
                loss = module.objective(module.embed(batch.inputs), batch.labels)["loss"]
            loss.backward()
            trainer.optimizers[0].step()

        watcher.others = {BARE: bare, "  with loss and optimizer, a plain loop": plain}
        train()
    rounds = watcher.rounds[1:]
    rows = []
    for name in rounds[0]:
        milliseconds = f"{1e3 * statistics.median(times[name] for times in rounds):,.1f}"
        rows.append((name, milliseconds, spread([times[BARE] / times[name] for times in rounds])))
    title = f"ResNet-50, {options.images} images of {options.size_px} px"
    table(title, ("ms", "bare by it"), rows)
    return statistics.median(times["the trainer's step"] for times in rounds)


def shares(added: dict[int, dict[str, float]], seconds: float, options: argparse.Namespace) -> None:
    """Print TCM's share of a step."""
    rows = []
    for items, bases in added.items():
        longer = seconds * items / options.images
        how = "" if items == options.images else " (computed)"
        rows += [
            (f"{base}, {items:,}", f"{1e3 * more:,.2f}", f"{longer:,.2f}{how}", f"{more / longer:.3%}")
            for base, more in bases.items()
        ]
    table("TCM in a step of ResNet-50", ("TCM ms", "step s", "share"), rows)


@contextmanager
def told_by_cuda(found: Counter[tuple[str, str]]) -> Iterator[None]:
    """Count, by place, what torch says that the host waited for."""

    def tell(message: Warning | str, *args: Any) -> None:
        if "synchronizing" in str(message):
            found[place(), "waited"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = tell  # type: ignore[assignment]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


class OneStep(pl.Callback):
    """Watches from the start of the third step to that of the fourth."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._counting = Waits()
        self._watch = ExitStack()

    @property
    def found(self) -> Counter[tuple[str, str]]:
        """By line and kind."""
        return self._counting.found

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == 2:
            self._watch.enter_context(self._counting if self.device == "cpu" else told_by_cuda(self._counting.found))
        elif trainer.global_step == 3:
            self._watch.close()


def waits(options: argparse.Namespace) -> None:
    """Print where the host waits in a step."""
    rows = []
    for loss in ("smooth_ap", "rs_at_k"):
        watcher = OneStep(options.device)
        with trained(options, loss, 8, 64, steps=6, watcher=watcher) as (_, train, _):
            train()
        rows += [(f"{loss}: {where}", what, str(times)) for (where, what), times in watcher.found.items()]
        rows.append((f"{loss}: sum", "", str(watcher.found.total())))
    table("waits of the host in a step" if options.device != "cpu" else "what would wait on a GPU, a step",
          ("what", "times"), rows)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--parts", nargs="+", default=["losses", "step", "waits"], choices=["losses", "step", "waits"])
    parser.add_argument("--batches", nargs="+", type=int, default=[384, 4000], help="items whose loss is taken")
    parser.add_argument("--published-to", type=int, help="most items for forms of others; 384 on a CPU, else no limit")
    parser.add_argument("--images", type=int, help="of a step; 8 on a CPU, else 384")
    parser.add_argument("--size-px", type=int, default=224)
    parser.add_argument("--steps", type=int, default=2, help="of each kind in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    options.published_to = options.published_to or (384 if options.device == "cpu" else sys.maxsize)
    options.images = options.images or (8 if options.device == "cpu" else 384)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler tells of every start
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # as in runs
    name = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} threads"
    print(f"{name}, torch {torch.__version__}, {options.rounds} rounds")
    added = losses(options) if "losses" in options.parts else {}
    if "step" in options.parts:
        seconds = step(options)
        if added:
            shares(added, seconds, options)
    if "waits" in options.parts:
        waits(options)


if __name__ == "__main__":
    main()
