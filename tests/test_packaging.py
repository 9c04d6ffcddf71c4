"""The built wheel, installed outside of the checkout: its commands, and the configs that come with it."""

import os
import shlex
import subprocess
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
COMMANDS = ("train", "sweep", "report", "preflight", "predict", "inspect")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of the programs of a new environment with the wheel; its dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(["uv", "build", "--quiet", "--wheel", f"--out-dir={folder}"], cwd=ROOT, check=True)
    venv.create(folder / "venv")
    (wheel,) = folder.glob("*.whl")
    python = folder / "venv" / "bin" / "python"
    install = ["uv", "pip", "install", "--quiet", "--no-deps", f"--python={python}", str(wheel)]
    subprocess.run(install, check=True)
    (packages,) = folder.glob("venv/lib/*/site-packages")
    # A path file would execute the path files in there too, which make the checkout importable; a plain path does not.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv" / "bin"


def run(*words, cwd):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["PATH"] = f"{Path(words[0]).parent}:{environment['PATH']}"
    process = subprocess.run(list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.long
def test_every_command_has_help(installed, tmp_path):
    for command in COMMANDS:
        assert "python -m rgjax" in run(installed / f"rgjax-{command}", "--help", cwd=tmp_path)


@pytest.mark.long
def test_configs_are_found_by_name(installed, tmp_path):
    code = (
        "import rgjax; from rgjax.command import find_config_file; "
        "print(rgjax.__file__, find_config_file('digits.py'), find_config_file('configs/paper.py'))"
    )
    for path in run(installed / "python", "-c", code, cwd=tmp_path).split():
        assert Path(path).is_relative_to(installed.parent)
    small = ["--config.train.steps=1", "--config.model.name=resnet10", "--config.model.width=8"]
    assert "balanced accuracy" in run(
        *(installed / "rgjax-train", "--config=configs/digits.py:ce", *small, f"--workdir={tmp_path / 'w'}"),
        cwd=tmp_path,
    )
    assert "train.batch_size" in run(
        installed / "python", "-m", "rgjax.main", "--config=digits.py", "--help", cwd=tmp_path
    )


@pytest.mark.long
def test_the_studies_of_the_paper_are_found(installed, tmp_path):
    code = (
        "from rgjax.command import find_config_file; from rgjax.sweep.plan import read_variants; "
        "print(*{v.file for v in read_variants(find_config_file('paper.py'), {}, common={}, quick=True)})"
    )
    files = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert {Path(file).name for file in files} >= {"ham10000.py", "phrasebank.py", "cifar100_binary.py"}
    assert all(Path(file).is_relative_to(installed.parent) and Path(file).is_file() for file in files)


SMALL = ["--config.data.image_size=16", "--config.model.name=resnet10", "--config.model.width=8"]


@pytest.mark.long
def test_the_commands_that_others_print_run_in_another_folder(installed, tmp_path):
    """From the data to predictions, with a blank in each path."""
    for name in ("a cat", "a dog"):
        for i in range(20):
            path = tmp_path / "my photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (9, 9, 3), np.uint8)).save(path)
    inspected = run(installed / "rgjax-inspect", "my photos", cwd=tmp_path)
    program, *words = shlex.split(inspected.splitlines()[-1])
    assert (program, words[0]) == ("rgjax-train", "--config=images_scratch.py")
    one_step = ["--config.train.steps=1", "--config.encoder.name=projection"]
    run(installed / program, *words, *SMALL, *one_step, "--workdir=my runs/photos", cwd=tmp_path)
    assert "report.html" in run(installed / "rgjax-report", "my runs", cwd=tmp_path)
    predicted = run(installed / "rgjax-predict", "--workdir=my runs/photos", "my photos", cwd=tmp_path)
    assert len(predicted.splitlines()) == 41
    python = [installed / "python", "-m", "rgjax.data.inspect"]
    assert "-m rgjax.main --config=images.py" in run(*python, "my photos", cwd=tmp_path)


@pytest.mark.long
def test_a_sweep_in_another_folder(installed, tmp_path):
    words = ["--config=digits.py", "--methods=ce", "--seeds=1", "--quick", *SMALL, "--config.train.steps=1"]
    printed = run(installed / "rgjax-sweep", *words, "--workdir=my sweep", cwd=tmp_path)
    assert "show them by: rgjax-report 'my sweep'" in printed
    assert "report.html" in run(installed / "rgjax-report", "my sweep", cwd=tmp_path)
