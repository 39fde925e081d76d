"""The code blocks of the README and of docs/ are run, so that they cannot go stale."""

import csv
import importlib.util
import re
import shlex
import shutil
import subprocess
from functools import partial

import pytest
import torch
from answers import answer
from hydra import compose, initialize_config_dir
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner
from vectors import command, head, write_vectors

import tcm_bench.runs.experiment  # noqa: F401 - here once, instead of in every fork
from tcm_bench.cli.app import app
from tcm_bench.results import ledger
from tcm_bench.results.ledger import BEST, CHECKPOINT, PREVIOUS
from tcm_bench.runs.naming import PROJECT_ROOT, composed
from tcm_bench.runs.run import main
from tcm_bench.training.diverged import DIVERGED

DOCUMENTS = {
    file.relative_to(PROJECT_ROOT).as_posix(): file.read_text()
    for file in (PROJECT_ROOT / "README.md", *sorted((PROJECT_ROOT / "docs").glob("*.md")))
}
CODE = re.compile(r"`([^`]+)`")


def blocks(language: str) -> list[str]:
    text = "\n".join(DOCUMENTS.values())
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = (line for block in blocks("bash") for line in block.splitlines())
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def imported(script: str):
    spec = importlib.util.spec_from_file_location(script, PROJECT_ROOT / "scripts" / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["README.md", "docs/evidence.md"])
def test_the_tables_are_those_of_the_rows(name):
    """`python scripts/tables.py` writes them."""
    script = imported("tables")
    assert set(script.DOCUMENTS) == {name for name, text in DOCUMENTS.items() if script.MARKED.search(text)}
    assert len(script.MARKED.findall(DOCUMENTS[name])) == {"README.md": 1, "docs/evidence.md": 6}[name]
    assert script.rendered(DOCUMENTS[name]) == DOCUMENTS[name]
    assert "nan" not in re.findall(r"\w+", DOCUMENTS[name])


def test_the_table_of_recipes_is_that_of_the_configuration():
    """`python scripts/recipes.py` writes it."""
    script = imported("recipes")
    assert len(script.cells()) == 16
    text = script.DOCUMENT.read_text(encoding="utf-8")
    assert script.rendered(text) == text
    for name in script.cells():  # what plans and the order of a sweep go by
        cfg = composed(f"+experiment={name}")
        assert [f"{cfg.cost.gpu_hours:.1f}", f"{cfg.cost.memory_gb:g}"] == script.line(name, cfg)[-2:]
        assert cfg.cost.disk_gb == round(script.disk_gb(name, cfg), 1)


def test_the_pictures_of_the_studies_are_drawn_from_their_rows():
    """`python scripts/effects.py` draws them."""
    script = imported("effects")
    for name in script.STUDIES:
        with Image.open(PROJECT_ROOT / "docs" / "evidence" / f"{name}.png") as picture:
            assert picture.text == {"Source": script.origin(PROJECT_ROOT / "results" / f"why_{name}.csv")["Source"]}


def test_the_picture_of_the_readme_shows_runs_of_its_table():
    """`tcm-bench curves` draws it, of one seed; the table has the means of them all."""
    with Image.open(PROJECT_ROOT / "outputs" / "utility_curves.png") as picture:
        drawn = re.findall(r"of comparison (\w+), OPIS ([\d.]+)", picture.text["Description"])
    with (PROJECT_ROOT / "results" / "mini.csv").open() as file:
        rows = {row["comparison_id"]: row for row in csv.DictReader(file)}
    (comparison, base), (same, tcm) = drawn
    assert comparison == same
    assert float(base) == pytest.approx(float(rows[comparison]["opis_base"]), rel=0.1)
    assert float(tcm) == pytest.approx(float(rows[comparison]["opis_tcm"]), rel=0.1)


TRAIN = [words[words.index("train.py") + 1 :] for words in commands() if "train.py" in words]
(OWN_LOSS,) = [words for words in TRAIN if "loss._target_=own_loss.Hinge" in words]
QUICK = {  # what is run in full, and how it is made small
    (): [
        *["data.splits.images_per_class=2", "data.loader.classes_per_batch=32", "trainer.max_epochs=1"],
        *["model.backbone.input.size_px=32", "model.backbone.input.resize_px=32"],  # a ninth of the pixels
    ],
    ("data=features", "data.file=my.npz"): ["trainer.max_epochs=1"],
    tuple(OWN_LOSS): [
        *["data.splits.images_per_class=2", "data.loader.classes_per_batch=32", "trainer.max_epochs=1"],
        *["model.backbone.input.size_px=32", "model.backbone.input.resize_px=32"],
    ],
}


def test_every_command_is_accounted_for():
    assert len(TRAIN) >= 8
    assert {words[0] for words in commands()} == {"make", "python", "tcm-bench", "torchrun", "srun"}
    assert set(QUICK) <= {tuple(words) for words in TRAIN}


@pytest.mark.parametrize("overrides", TRAIN, ids=" ".join)
def test_every_training_command_composes(overrides, tmp_path):
    several = re.compile(r"=(?:(?:range|interval)\(([\d.]+),.*\)|([^,()\[{]+),.*)$")
    single = [several.sub(r"=\1\2", word) for word in overrides if word != "-m"]
    single = [re.sub(r"=my\.\w+$", f"={PROJECT_ROOT / 'train.py'}", word) for word in single]
    single = [re.sub(r"^data.root=photographs$", f"data.root={PROJECT_ROOT / 'scripts'}", word) for word in single]
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        assert len(compose("config", single).run_id) == 12


def test_the_python_and_the_commands_run(tmp_path):
    """In one folder, for a command takes a file that the Python wrote."""
    for block in blocks("python"):
        if "class Hinge" in block:
            (tmp_path / "own_loss.py").write_text(block)
        ran = answer(partial(exec, block, {"__name__": "__main__"}), [], tmp_path)
        assert ran.status == 0, ran.stderr
    for number, (overrides, small) in enumerate(QUICK.items()):
        output = tmp_path / f"outputs {number}"
        words = [*overrides, *small, f"paths.output_dir={output}", "machine.threads=1", "machine.accelerator=cpu"]
        ran = answer(main, words, tmp_path)
        assert ran.status == 0, ran.stderr
        (row,) = ledger.results((output / "runs").iterdir())
        assert row.status == "finished"


def test_the_list_of_a_runs_files_is_complete(tmp_path):
    words = head(write_vectors(tmp_path))
    subprocess.run(command(tmp_path, *words, "logger=wandb", "logger.wandb.mode=offline"), check=True)
    (run_dir,) = (tmp_path / "runs").iterdir()
    found = {f"{path.name}/" if path.is_dir() else path.name for path in run_dir.iterdir()}
    table = DOCUMENTS["docs/training.md"].partition("`outputs/runs/<run_id>/` holds")[2].partition("\n## ")[0]
    listed = [name for row in table.splitlines() if row.startswith("| `") for name in CODE.findall(row.split("|")[1])]
    assert sorted(listed) == sorted(found | {ledger.RUNNING, CHECKPOINT, PREVIOUS, BEST, DIVERGED})


@pytest.mark.parametrize("words", [words[1:] for words in commands() if words[0] == "tcm-bench"], ids=" ".join)
def test_every_subcommand_knows_its_options(words):
    done = CliRunner().invoke(app, [*words, "--help"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("target", sorted({words[1] for words in commands() if words[0] == "make"}))
def test_make_knows_every_target(target):
    make = shutil.which("make")
    assert make, "the README asks for make"
    subprocess.run([make, "--dry-run", target], cwd=PROJECT_ROOT, check=True, capture_output=True)


LINKS = [(name, path) for name in DOCUMENTS for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", DOCUMENTS[name])]


@pytest.mark.parametrize(("name", "path"), LINKS)
def test_every_link_leads_somewhere(name, path):
    assert ((PROJECT_ROOT / name).parent / path).exists()


@pytest.mark.parametrize("subcommand", sorted(set(re.findall(r"`tcm-bench (\w+)", "\n".join(DOCUMENTS.values())))))
def test_every_subcommand_exists(subcommand):
    done = CliRunner().invoke(app, [subcommand, "--help"])
    assert done.exit_code == 0, done.output
    assert subcommand in done.output


def test_the_noise_where_classes_share_typefaces_is_told_from_the_rest(tmp_path, monkeypatch, capsys):
    """`python scripts/typefaces.py`, over a run whose images of one number are alike in all classes."""
    script = imported("typefaces")
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20).repeat_interleave(12)
    typeface = torch.randn(12, 8, generator=generator)[torch.arange(12).repeat(20)]
    x = torch.randn(20, 8, generator=generator)[labels] + typeface + 0.5 * torch.randn(240, 8, generator=generator)
    choices = {"data": "kanji", "backbone": "b", "loss": "smooth_ap", "tcm": "none", "seed": 0}
    ends = {"threshold_low": 0.6, "threshold_high": 0.9}
    row = {"run_id": "a", "choices": choices, "status": "finished", "metrics": {"noise_floor": 0.5}, "threshold": ends}
    row |= {"started": "", "wall_s": 1, "peak_mem_gib": 1, "threads": 1, "versions": {}, "git": {}}
    ledger.write_result(tmp_path / "runs" / "a", ledger.Result(**row))
    tensors = {"embeddings": torch.nn.functional.normalize(x), "labels": labels, "indices": torch.arange(240)}
    save_file(tensors, tmp_path / "runs" / "a" / ledger.EMBEDDINGS)
    ledger.write_sweep(tmp_path, "mini", [ledger.Run(run_id="a", choices=choices)])
    monkeypatch.setattr(script, "OUTPUTS", tmp_path)
    script.main()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| kanji ")]
    own, apart, shared = (int(cell.split("%")[0]) for cell in line.split(" | ")[2:])
    assert own == 50
    assert shared < apart
