"""What a launcher takes for a job, with jobs that do nothing: none may be lost, and none be run twice.

    python tests/benchmarks/launchers.py                 500 jobs in local processes and on a Slurm of this machine
    python tests/benchmarks/launchers.py --jobs 20

Seconds of the whole command by the number of jobs. A process of the local launcher does many jobs; each of Slurm's is a
process of its own, of which Python's start is most.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
SCRIPT = TESTS.parent / "scripts" / "slurm_on_one_machine"


def measured(launcher: str, jobs: int, folder: Path, environment: dict[str, str]) -> None:
    """Run so many jobs and print what became of them."""
    out = folder / launcher
    out.mkdir()
    words = [sys.executable, str(TESTS / "no_op_app.py"), str(out), launcher, f"i=range(0,{jobs})"]
    begun = time.perf_counter()
    ran = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    seconds = time.perf_counter() - begun
    done = {int(path.stem) for path in out.glob("*.json")}
    twice = sum("FileExistsError" in path.read_text(encoding="utf-8") for path in out.glob("slurm/*/*.out"))
    twice += ran.stderr.count("FileExistsError")
    lost = jobs - len(done & set(range(jobs)))
    print(f"{launcher}: {jobs} jobs, {lost} lost, {twice} twice, {seconds:.1f} s, {1e3 * seconds / jobs:.0f} ms a job")
    if ran.returncode or lost or twice:
        sys.exit(ran.stderr[-2000:] or f"status {ran.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=500)
    options = parser.parse_args()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured("local", options.jobs, folder, environment)
        if shutil.which("slurmctld") is None:
            print("slurm: not installed here; scripts/slurm_on_one_machine install")
            return
        cluster = folder / "cluster"
        subprocess.run([SCRIPT, "start", cluster], check=True)
        try:
            environment["SLURM_CONF"] = str(cluster / "slurm.conf")
            measured("slurm", options.jobs, folder, environment)
        finally:
            subprocess.run([SCRIPT, "stop", cluster], check=True)


if __name__ == "__main__":
    main()
