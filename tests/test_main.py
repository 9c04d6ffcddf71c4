"""The command as a user meets it: its own process, its exit code, its one line."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from rgjax.config import method_config
from rgjax.errors import UserError
from rgjax.main import refuse_another
from rgjax.storage.files import lock_run_dir
from tests.crashes import PHASES, crash

ROOT = Path(__file__).parents[1]
SMALL = [
    "--config.data.image_size=16",
    "--config.model.name=resnet10",
    "--config.model.width=8",
    "--config.train.epochs=2",
    "--config.train.batch_size=64",
    "--config.regroup.n_init=1",
]


def command(*arguments):
    return [sys.executable, "-m", "rgjax.main", *arguments]


def run(*arguments, cwd=ROOT):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command(*arguments), cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def refused(*arguments):
    """Standard error of a command that must end with exit code 2 and one line."""
    process = run(*arguments)
    assert process.returncode == 2, process.stderr
    lines = [line for line in process.stderr.splitlines() if line.startswith("rgjax: ")]
    assert len(lines) == 1
    assert "Traceback" not in process.stderr
    return lines[0]


def test_a_run_prints_a_readable_result_and_a_second_call_does_nothing(tmp_path):
    first = run("--config=configs/digits.py:rg", *SMALL, f"--workdir={tmp_path / 'w'}")
    assert first.returncode == 0, first.stderr
    for word in ("balanced accuracy", "chance", "macro AP", "rest", "max: BA"):
        assert word in first.stdout
    modified = (tmp_path / "w" / "result.json").stat().st_mtime_ns
    again = run("--config=configs/digits.py:rg", *SMALL, f"--workdir={tmp_path / 'w'}")
    assert again.stdout == first.stdout
    assert (tmp_path / "w" / "result.json").stat().st_mtime_ns == modified
    result = json.loads((tmp_path / "w" / "result.json").read_text())
    assert {"dataset", "method", "seed", "num_classes", "num_pseudo_classes", "val", "test", "timing"} <= set(result)

    other = refused("--config=configs/digits.py:rg", *SMALL, "--config.seed=7", f"--workdir={tmp_path / 'w'}")
    assert "holds a run with config.seed=0, not 7" in other


@pytest.mark.long
def test_killed_in_each_of_its_phases_a_run_ends_with_the_same_bits(tmp_path):
    crash(tmp_path, kills=9, seed=1)


@pytest.mark.soak
def test_fifty_kills(tmp_path):
    survived = crash(tmp_path, kills=54, seed=0)
    assert {phase for phase, _ in survived} == set(PHASES)


def test_a_workdir_in_hand_is_refused(tmp_path):
    with lock_run_dir(tmp_path):
        says = refused("--config=configs/digits.py:ce", f"--workdir={tmp_path}")
    assert f"{tmp_path} is in the hands of process {os.getpid()} on {platform.node()}: wait until it ends" in says


@pytest.mark.soak
def test_a_population_is_a_table_of_its_seeds(tmp_path):
    arguments = ["--config=configs/digits.py:ce", *SMALL, "--config.train.steps=2", f"--workdir={tmp_path}"]
    process = run(*arguments, "--config.population=2", "--config.seed=5")
    assert process.returncode == 0, process.stderr
    for word in ("2 seeds", "macro AP", "mean", "standard dev.", "2 seeds as one program"):
        assert word in process.stdout
    alone = run("--config=configs/digits.py:ce", *SMALL, "--config.train.steps=2", "--config.seed=6",
                f"--workdir={tmp_path / 'seed-6'}")  # fmt: skip
    assert "seed 6" in alone.stdout
    assert "train:" not in alone.stderr


def test_help_lists_methods_and_fields():
    process = run("--help")
    assert process.returncode == 0
    for word in ("configs/FILE.py", "rg_ldam", "train.batch_size", "regroup.threshold"):
        assert word in process.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--config=FILE is missing"),
        (["--config=configs/nothing.py"], "there is no file configs/nothing.py"),
        (["--config=configs/digits.py:rgg"], "unknown method 'rgg' (did you mean 'rg'?); valid: ce, wce"),
        (["--config=configs/digits.py", "--config.train.epochz=3"], "did you mean 'train.epochs'"),
        (["--config=configs/digits.py", "--config.train.epochs=many"], "config.train.epochs"),
        (["--config=configs/digits.py", "--config.train.epochs=0"], "must be at least 1"),
        (
            ["--config=configs/digits.py", "--config.regroup.threshold=-3"],
            "config.regroup.threshold=-3 is out of range",
        ),
        (["--config=configs/digits.py", "--config.encoder.name=projecton"], "did you mean 'projection'"),
        (["--config=configs/digits.py", "--config.data.positive=eight"], "eight"),
        (["--config=configs/digits.py", "--config.train.batch_size=4000"], "larger than the training set"),
        (["--config=configs/digits.py", "--process=1"], "go with --distributed"),
        (["--config=configs/digits.py", "--distributed"], "--distributed: coordinator_address should be defined"),
        (["--config=configs/digits.py", "surplus"], "unexpected argument 'surplus'"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, says, tmp_path):
    assert says in refused(*arguments, f"--workdir={tmp_path / 'w'}")


def test_a_download_that_is_missing_or_damaged_is_one_line(ham_download, tmp_path):
    def says(folder):
        return refused(
            "--config=configs/ham10000.py",
            "--config.encoder.name=projection",
            f"--config.data.manual_dir={folder}",
            f"--config.data.data_dir={tmp_path / 'prepared'}",
            f"--workdir={tmp_path / 'w'}",
        )

    assert "--config.data.manual_dir=FOLDER" in says(tmp_path / "nowhere")
    image = next(ham_download.glob("*/ISIC_0000003.jpg"))
    image.write_bytes(image.read_bytes()[:300])
    assert f"1 of 84 images cannot be read: {image}" in says(ham_download)
    image.unlink()
    assert "1 of 84 images of the metadata are not in" in says(ham_download)


def test_a_config_file_of_ones_own_that_is_broken_is_named(tmp_path):
    own = tmp_path / "own.py"
    for text, says in (
        ("x = 1", "no attribute 'get_config'"),
        ("def get_config(:", "SyntaxError"),
        (
            "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({'seed': 1})",
            "the config has no field 'method'",
        ),
    ):
        own.write_text(text)
        assert says in refused(f"--config={own}")


def test_a_damaged_workdir_is_named(tmp_path):
    (tmp_path / "provenance.json").write_text("{}")
    (tmp_path / "config.json").write_text("[" * 100_000)
    says = refused("--config=configs/digits.py", f"--workdir={tmp_path}")
    assert f"{tmp_path} holds a run whose settings are damaged: use another --workdir" in says


def test_a_run_of_an_older_version_is_itself_and_not_another(tmp_path):
    config = method_config("ce", {})
    recorded = json.loads(config.to_json())
    del recorded["deepsmote"], recorded["data"]["unreadable"], recorded["regroup"]["min_size"]
    (tmp_path / "config.json").write_text(json.dumps(recorded))
    (tmp_path / "provenance.json").write_text("{}")
    refuse_another(tmp_path, config)
    with pytest.raises(UserError, match=r"holds a run with config.seed=0, not 1"):
        refuse_another(tmp_path, method_config("ce", {"seed": 1}))


def test_a_workdir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be used" in refused("--config=configs/digits.py", f"--workdir={tmp_path / 'file' / 'w'}")


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RGJAX_CACHE", str(tmp_path / "file"))
    says = refused("--config=configs/digits.py:rg", *SMALL, f"--workdir={tmp_path / 'w'}")
    assert f"{tmp_path / 'file'}" in says


def test_data_of_ones_own_that_are_missing_are_one_line_and_the_run_is_called_by_them(tmp_path):
    arguments = [f"--config={ROOT / 'configs' / 'images.py'}", "--config.data.positive=tits/jays"]
    process = run(*arguments, "--config.data.manual_dir=birds", cwd=tmp_path)
    assert process.returncode == 2
    assert "rgjax: birds: no such folder or table" in process.stderr
    assert "Traceback" not in process.stderr
    assert next((tmp_path / "runs").iterdir()).name.startswith("birds_tits_jays-rg-")
