"""The main command: its result, its messages and its exit codes; one run in a process of its own, the rest here."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from absl.testing import flagsaver

from rgjax import main
from rgjax.artifacts import read_result, refuse_another
from rgjax.command import CONFIG, find_config_file, parse
from rgjax.config import method_config
from rgjax.errors import UserError
from rgjax.storage.files import lock_run_dir, write_json
from tests.crashes import PHASES, crash
from tests.support.sweeps import Sweep

ROOT = Path(__file__).parents[1]
DIGITS = "--config=configs/digits.py"
SMALL = [
    "--config.data.image_size=16",
    "--config.model.name=resnet10",
    "--config.model.width=8",
    "--config.train.steps=2",
    "--config.train.batch_size=64",
    "--config.regroup.n_init=1",
]


def run(*arguments, cwd=ROOT):
    """Run the command in a process of its own."""
    words = [sys.executable, "-m", "rgjax.main", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


def run_here(*arguments):
    """Run the command in this process."""
    sys.modules.pop("config_config", None)  # ml_collections would execute the file in the module of the last one
    with flagsaver.flagsaver():
        parse(["main", *arguments])
        main.main([])


def refused(*arguments):
    """The message of a command that fails with a UserError."""
    with pytest.raises(UserError) as error:
        run_here(*arguments)
    return str(error.value)


def parsed(*arguments):
    """The config that the command line gives."""
    with flagsaver.flagsaver():
        parse(["main", *arguments])
        return CONFIG.value


@pytest.mark.long
def test_a_run_prints_its_result_and_a_finished_one_is_not_run_again(tmp_path, capsys):
    workdir = f"--workdir={tmp_path / 'w'}"
    first = run(f"{DIGITS}:rg", *SMALL, workdir)
    assert first.returncode == 0, first.stderr
    for word in ("balanced accuracy", "chance", "macro AP", "rest", "max: BA"):
        assert word in first.stdout
    result = json.loads((tmp_path / "w" / "result.json").read_text())
    assert {"dataset", "method", "seed", "num_classes", "num_pseudo_classes", "val", "test", "timing"} <= set(result)

    modified = (tmp_path / "w" / "result.json").stat().st_mtime_ns
    capsys.readouterr()
    run_here(f"{DIGITS}:rg", *SMALL, workdir)
    assert capsys.readouterr().out == first.stdout
    assert (tmp_path / "w" / "result.json").stat().st_mtime_ns == modified
    other_seed = refused(f"{DIGITS}:rg", *SMALL, "--config.seed=7", workdir)
    assert "holds a run with config.seed=0, not 7" in other_seed


@pytest.mark.parametrize("notes", [[], ["3 files skipped: a, b, c", "2 texts cut at 64 tokens"]])
def test_a_result_is_printed_with_the_notes_on_the_data(notes, tmp_path, capsys, monkeypatch):
    folder = Sweep(tmp_path).run("a", "ce")
    write_json(folder / "provenance.json", {"notes": [{"text": text} for text in notes]})
    monkeypatch.setattr(main, "run_trials", lambda config, workdir: [read_result(workdir)])
    run_here(DIGITS, f"--workdir={folder}")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("  note: ")] == [f"  note: {text}" for text in notes]


def test_a_user_error_is_one_line_and_exit_code_2(tmp_path):
    process = run(DIGITS, "--config.train.batch_size=4000", f"--workdir={tmp_path / 'w'}")
    assert process.returncode == 2
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("rgjax: ")]
    assert "config.train.batch_size=4000: larger than the training set" in line
    assert "Traceback" not in process.stderr


@pytest.mark.long
def test_killed_in_each_of_its_phases_a_run_ends_with_the_same_bits(tmp_path):
    crash(tmp_path, kills=9, seed=1)


@pytest.mark.soak
def test_fifty_kills(tmp_path):
    survived = crash(tmp_path, kills=54, seed=0)
    assert {phase for phase, _ in survived} == set(PHASES)


def test_a_locked_workdir_is_refused(tmp_path):
    with lock_run_dir(tmp_path):
        message = refused(f"{DIGITS}:ce", f"--workdir={tmp_path}")
    assert f"{tmp_path}: locked by process {os.getpid()} on {platform.node()}; wait for it to finish" in message


@pytest.mark.soak
def test_a_population_prints_a_table_of_its_seeds(tmp_path):
    arguments = [f"{DIGITS}:ce", *SMALL, f"--workdir={tmp_path}"]
    process = run(*arguments, "--config.population=2", "--config.seed=5")
    assert process.returncode == 0, process.stderr
    for word in ("2 seeds", "macro AP", "mean", "standard dev.", "2 seeds as one program"):
        assert word in process.stdout
    alone = run(f"{DIGITS}:ce", *SMALL, "--config.seed=6", f"--workdir={tmp_path / 'seed-6'}")
    assert "seed 6" in alone.stdout
    assert "train:" not in alone.stderr


def test_help_lists_options_methods_and_fields(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        parse(["main", "--help"], main.__doc__)
    text = capsys.readouterr().out
    for word in ("configs/FILE.py", "--coordinator", "rg_ldam", "train.batch_size", "regroup.threshold"):
        assert word in text


def test_options_take_hyphens_underscores_and_negation():
    assert parsed(DIGITS, "--config.train.batch-size=32").train.batch_size == 32
    assert parsed("--config", "configs/digits.py:ce", "--config.train.batch_size=32").method == "ce"
    for word in ("--config.model.unroll", "--config.model.unroll=true"):
        assert parsed(DIGITS, word).model.unroll
    for word in ("--no-config.data.flip", "--noconfig.data.flip", "--config.data.flip=false"):
        assert not parsed("--config=configs/images.py", word).data.flip
    assert parsed("--config.train.epochs=3", DIGITS).train.epochs == 3  # in any order
    config = parsed(
        *("-config", "configs/digits.py", "--config.train.batch-size", "16", "--config.data.positive", "8"),
        *("--config.train.lr", "1e-3", "--config.regroup.n-init=3", "--config.data.flip", "true"),
        *("--config.model.unroll", "--config.data.rotation", "3"),
    )
    assert (config.train.batch_size, config.data.positive, config.train.lr) == (16, "8", 1e-3)
    assert (config.regroup.n_init, config.data.flip, config.model.unroll) == (3, True, True)


def test_a_number_of_tokens_may_be_left_to_the_data():
    text = "--config=configs/text.py"
    assert parsed(text).data.max_length == "auto"
    for config_file in (text, DIGITS):
        assert parsed(config_file, "--config.data.max_length=auto").data.max_length == "auto"
        assert parsed(config_file, "--config.data.max-length=128").data.max_length == 128


def test_config_files_are_found_by_name_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits.py", "configs/digits.py"):
        assert find_config_file(name) == str(ROOT / "configs" / "digits.py")
    (tmp_path / "digits.py").write_text("")
    assert find_config_file("digits.py") == "digits.py"
    for name in ("configs/digit.py", "elsewhere/digits.py"):
        with pytest.raises(
            UserError, match=rf"--config={name}: no such file \(did you mean 'digits.py'\?\); give a path"
        ):
            find_config_file(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config=FILE is missing"),
        (["--config=configs/nothing.py"], "--config=configs/nothing.py: no such file"),
        ([f"{DIGITS}:rgg"], "unknown method 'rgg' (did you mean 'rg'?); valid: ce, wce"),
        ([DIGITS, "--config.train.epochz=3"], "did you mean 'train.epochs'"),
        ([DIGITS, "--config.train.epochs=many"], "config.train.epochs=many: must be a whole number"),
        ([DIGITS, "--config.train.batch-size", "8.5"], "config.train.batch_size=8.5: must be a whole number"),
        ([DIGITS, "--config.train.lr", "1e-3x"], "config.train.lr=1e-3x: must be a number"),
        ([DIGITS, "--config.train.lr="], "config.train.lr=: must be a number"),
        ([DIGITS, "--config.data.flip=maybe"], "config.data.flip=maybe: must be true or false"),
        ([DIGITS, "--config.train.batch-size"], "--config.train.batch_size: a value is missing"),
        (["--config"], "--config: a value is missing; write --config=FILE"),
        ([DIGITS, "--config.train.epochs=0"], "config.train.epochs=0: out of range; must be at least 1"),
        ([DIGITS, "--config.data.max_length=many"], "config.data.max_length=many: must be a whole number, or auto"),
        ([DIGITS, "--config.data.max_length=1.5"], "config.data.max_length=1.5: must be a whole number, or auto"),
        ([DIGITS, "--config.data.max_length"], "--config.data.max_length: a value is missing"),
        ([DIGITS, "--config.data.max_length=2"], "config.data.max_length=2: out of range; must be at least 3"),
        ([DIGITS, "--config.train.steps=auto"], "config.train.steps"),
        ([DIGITS, "--config.sampler=auto"], "unknown value of config.sampler 'auto'"),
        ([DIGITS, "--config.regroup.threshold=-3"], "config.regroup.threshold=-3: out of range"),
        ([DIGITS, "--config.encoder.name=projecton"], "did you mean 'projection'"),
        ([DIGITS, "--config.data.positive=eight"], "eight"),
        ([DIGITS, "--process=1"], "need --distributed"),
        ([DIGITS, "--process=first"], "--process=first"),
        ([DIGITS, "--workdirr=x"], "unknown option '--workdirr' (did you mean '--workdir'?); --help lists all options"),
        ([DIGITS, "surplus"], "unexpected argument 'surplus'; --help lists all options"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_mistakes_are_user_errors(arguments, message, tmp_path):
    assert message in refused(*arguments, f"--workdir={tmp_path / 'w'}")


def test_processes_that_cannot_connect_are_a_user_error(monkeypatch):
    def initialize(*args, **kwargs):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    assert "--distributed: coordinator_address should be defined.; give --coordinator" in refused(
        DIGITS, "--distributed"
    )


def test_a_missing_or_damaged_download_is_a_user_error(ham_download, tmp_path):
    def message(folder):
        return refused(
            "--config=configs/ham10000.py",
            "--config.encoder.name=projection",
            f"--config.data.manual_dir={folder}",
            f"--config.data.data_dir={tmp_path / 'prepared'}",
            f"--workdir={tmp_path / 'w'}",
        )

    assert "config.data.manual_dir" in message(tmp_path / "nowhere")
    image = next(ham_download.glob("*/ISIC_0000003.jpg"))
    image.write_bytes(image.read_bytes()[:300])
    assert str(image) in message(ham_download)
    image.unlink()
    assert "1 of 84 images" in message(ham_download)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "no attribute 'get_config'"),
        ("def get_config(:", "SyntaxError"),
        (
            "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({'seed': 1})",
            "config.method: missing",
        ),
    ],
)
def test_a_broken_config_file_is_a_user_error(text, message, tmp_path):
    file = tmp_path / "custom.py"
    file.write_text(text)
    assert message in refused(f"--config={file}", f"--workdir={tmp_path / 'w'}")


def test_a_workdir_with_damaged_settings_is_refused(tmp_path):
    (tmp_path / "provenance.json").write_text("{}")
    (tmp_path / "config.json").write_text("[" * 100_000)
    message = refused(DIGITS, f"--workdir={tmp_path}")
    assert f"--workdir={tmp_path}: holds a run whose settings are damaged; use another --workdir" in message


def test_a_run_of_an_older_version_keeps_its_identity(tmp_path):
    config = method_config("ce", {})
    recorded = json.loads(config.to_json())
    del recorded["deepsmote"], recorded["data"]["unreadable"], recorded["regroup"]["min_size"]
    (tmp_path / "config.json").write_text(json.dumps(recorded))
    (tmp_path / "provenance.json").write_text("{}")
    refuse_another(tmp_path, config)
    with pytest.raises(UserError, match=r"holds a run with config.seed=0, not 1"):
        refuse_another(tmp_path, method_config("ce", {"seed": 1}))
    with pytest.raises(UserError, match=r"holds a run with config.data.columns='', not 'text:a'"):
        refuse_another(tmp_path, method_config("ce", {"data.columns": "text:a"}))


def test_a_workdir_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be used" in refused(DIGITS, f"--workdir={tmp_path / 'file' / 'w'}")


@pytest.mark.long
def test_a_run_does_without_a_cache_that_cannot_be_written_and_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RGJAX_CACHE", str(tmp_path / "file"))
    process = run(f"{DIGITS}:rg", *SMALL, f"--workdir={tmp_path / 'w'}")
    assert process.returncode == 0
    assert f"{tmp_path / 'file'}" in process.stderr and "Traceback" not in process.stderr
    assert (tmp_path / "w" / "result.json").exists()


def test_missing_custom_data_are_a_user_error_and_name_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refused("--config=images.py", "--config.data.positive=tits/jays", "--config.data.manual_dir=birds")
    assert "birds: no such folder or table" in message
    assert next((tmp_path / "runs").iterdir()).name.startswith("birds_tits_jays-rg-")
