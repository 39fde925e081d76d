"""Whether a run that is stopped again and again comes to the bytes of one that was left alone.

    python tests/benchmarks/kills.py --kills 50

A small network is trained from pixels, with two loader processes and a checkpoint after every step that has had time
for one. It is stopped at random moments: while it starts, in the middle of an epoch, while a checkpoint is written,
while it is measured. Nine times of ten by SIGKILL to all its processes, else by a scheduler's SIGTERM to the first;
every tenth time its last checkpoint is cut short as well. The same command then goes on. Once it has finished, its
history, weights and embeddings are compared with those of the undisturbed run, and it starts anew until there were as
many stops.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

PROJECT = Path(__file__).parents[2]
RUN = [
    *["data=emoji", "model/backbone=conv4", "model.freeze=none", "model.backbone.input.size_px=28"],
    *["model.backbone.input.resize_px=28", "data.loader.classes_per_batch=16", "data.loader.batches_per_epoch=40"],
    *["data.loader.images_per_class=2", "data.loader.validation_classes=20", "selection=best", "trainer.max_epochs=6"],
    *["machine.threads=1", "machine.num_workers=2", "machine.accelerator=cpu", "machine.progress=false"],
    *["callbacks.checkpoint.every_min=0", "callbacks.checkpoint.share=0.3"],
]
COMPARED = ("history.csv", "weights.safetensors", "test_embeddings.safetensors")
STEPS = 40  # of an epoch
NOTICE = 75  # the status that asks to be started again


def start(output: Path) -> subprocess.Popen[bytes]:
    """The command, in a process group of its own."""
    command = [sys.executable, str(PROJECT / "train.py"), *RUN, f"paths.output_dir={output}"]
    with (output / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def stage(output: Path) -> tuple[str, int]:
    """What the run says that it is doing, and the step it is at."""
    for file in output.glob("runs/*/running.json"):
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(file.read_text())
            return found["stage"], found["done"]
    return "start", 0


def stopped(output: Path, chance: random.Random, number: int) -> str | None:
    """Start the command and stop it at a random moment; where it was, or None if it had finished by then."""
    process = start(output)
    is_notice = number % 10 == 9
    before = process.pid
    if chance.random() < 0.85:  # once it trains, or goes on training
        while process.poll() is None and not any(
            f'"pid":{before}' in file.read_text().replace(" ", "") and stage(output)[0] != "start"
            for file in output.glob("runs/*/running.json")
        ):
            time.sleep(0.01)
        wait_s = chance.uniform(0, 4)
    else:
        wait_s = chance.uniform(0, 8)
    with contextlib.suppress(subprocess.TimeoutExpired):
        if process.wait(wait_s) == 0:
            return None
    where, step = stage(output)
    if process.poll() is not None:
        raise SystemExit(f"the command failed by itself: see {output / 'log'}")
    if is_notice:
        process.send_signal(signal.SIGTERM)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    status = process.wait()
    if is_notice and status not in (NOTICE, 0, 143, -signal.SIGTERM):
        raise SystemExit(f"status {status} after SIGTERM: see {output / 'log'}")
    if number % 10 == 5:
        for file in output.glob("runs/*/last.ckpt"):
            file.write_bytes(file.read_bytes()[: chance.randrange(1, file.stat().st_size)])
            where += ", last checkpoint cut short"
    inside = where.startswith("train") and step % STEPS != 0
    return f"{'SIGTERM' if is_notice else 'SIGKILL'} {where}{', within an epoch' if inside else ''}"


def results(output: Path) -> dict[str, bytes]:
    """The files that must not differ."""
    (folder,) = output.glob("runs/*")
    return {name: (folder / name).read_bytes() for name in COMPARED}


def main() -> None:
    """Stop, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as place:
        whole, cut = Path(place) / "whole", Path(place) / "cut"
        whole.mkdir()
        if start(whole).wait():
            raise SystemExit((whole / "log").read_text())
        expected, seen, finished = results(whole), Counter[str](), 0
        while sum(seen.values()) < asked.kills or cut.exists():
            cut.mkdir(exist_ok=True)
            if sum(seen.values()) >= asked.kills:
                if start(cut).wait():
                    raise SystemExit((cut / "log").read_text())
            elif where := stopped(cut, chance, sum(seen.values())):
                seen[where] += 1
                continue
            differing = [name for name, content in results(cut).items() if content != expected[name]]
            if differing:
                raise SystemExit(f"after {sum(seen.values())} stops these differ: {', '.join(differing)}")
            finished += 1
            print(f"{sum(seen.values())} stops so far, run {finished} finished to the same bytes", flush=True)
            shutil.rmtree(cut)
    print(f"{sum(seen.values())} stops, {finished} runs finished to the same bytes ({', '.join(COMPARED)})")
    for where, count in seen.most_common():
        print(f"{count:4d}  {where}")


if __name__ == "__main__":
    main()
