"""The command on images, sentences and what is neither, with networks that training has not changed."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rgjax.data.decode import decode
from rgjax.errors import UserError
from rgjax.predict import __main__
from rgjax.predict.predictor import Predictor
from tests.support.finished import digits, finish_untrained, text_in

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def of_digits(tmp_path_factory):
    return finish_untrained(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def of_text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    return finish_untrained(folder / "run", **text_in(folder))


@pytest.fixture
def photos(tmp_path):
    """Three images, at two depths, and things that are none."""
    folder = tmp_path / "photos"
    (folder / "deep" / ".hidden").mkdir(parents=True)
    (folder / "deep" / "again").symlink_to(folder)
    rng = np.random.default_rng(0)
    for name in ("b.png", "deep/a.jpg", "deep/c.png", "deep/.d.png", "deep/.hidden/e.png"):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def command(workdir, *arguments, exit_code=0):
    assert __main__.main([f"--workdir={workdir}", *map(str, arguments)]) == exit_code


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_a_folder_of_images_is_a_table_of_their_classes(of_digits, photos, capsys):
    command(of_digits, photos, "--neighbors=0")
    out, err = capsys.readouterr()
    rows = table(out)
    paths = [photos / name for name in ("b.png", "deep/a.jpg", "deep/c.png")]
    assert [row["id"] for row in rows] == [str(path) for path in paths]
    assert list(rows[0]) == ["id", "class", "p_rest", "p_8", "group", "group_class", "group_probability"]
    expected = Predictor.from_run(of_digits)(np.stack([decode(path, 16) for path in paths]))
    found = np.array([[float(row["p_rest"]), float(row["p_8"])] for row in rows])
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert [row["class"] for row in rows] == [("rest", "8")[top] for top in expected.argmax(axis=1)]
    assert err.splitlines()[-1] == "predicted 3 of 3"


def test_what_cannot_be_read_is_told_and_the_rest_predicted(of_digits, photos, tmp_path, capsys):
    (photos / "broken.png").write_bytes((photos / "b.png").read_bytes()[:60])
    (photos / "deep" / "empty.jpg").write_text("")
    output = tmp_path / "found.jsonl"
    command(of_digits, photos / "nowhere.png", f"--output={output}", photos, "--batch-size=2", "--neighbors=0",
            exit_code=2)  # fmt: skip
    out, err = capsys.readouterr()
    assert out == ""
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [Path(row["id"]).name for row in rows] == ["b.png", "a.jpg", "c.png"]
    assert sum(row[f"p_{name}"] for row in rows for name in ("rest", "8")) == pytest.approx(3, abs=1e-4)
    told = [line for line in err.splitlines() if line.startswith("rgjax: ")]
    assert [Path(line.split(": ")[1]).name for line in told] == ["nowhere.png", "broken.png", "empty.jpg"]
    assert "No such file" in told[0] and "empty file" in told[2]
    assert err.splitlines()[-1] == "predicted 3 of 6; 3 could not be read"
    assert not list(tmp_path.glob("*.part"))


def test_many_batches_keep_their_order(of_digits, tmp_path, capsys, monkeypatch):
    dataset = digits()
    paths = [tmp_path / f"{row}.png" for row in range(11)]
    for row, path in enumerate(paths):
        Image.fromarray(dataset.inputs[row]).save(path)
    lines = io.TextIOWrapper(io.BytesIO("\n".join(map(str, paths)).encode()))
    monkeypatch.setattr(sys, "stdin", lines)
    command(of_digits, "-", "--batch-size=4", "--neighbors=0")
    rows = table(capsys.readouterr().out)
    assert [row["id"] for row in rows] == [str(path) for path in paths]
    expected = Predictor.from_run(of_digits)(dataset.inputs[:11])
    np.testing.assert_allclose([float(row["p_8"]) for row in rows], expected[:, 1], rtol=1e-4)


def test_a_training_image_is_its_own_nearest_neighbor(of_digits, tmp_path, capsys, monkeypatch):
    dataset = digits()
    with np.load(of_digits / "regrouping.npz") as file:
        rows, groups = file["rows"], file["pseudo_labels"]
    chosen = rows[::200]
    for row in chosen:
        Image.fromarray(dataset.inputs[row]).save(tmp_path / f"{row}.png")
    paths = [tmp_path / f"{row}.png" for row in chosen]
    command(of_digits, *paths, "--neighbors=2")
    found = table(capsys.readouterr().out)
    by_row = dict(zip(rows.tolist(), groups.tolist(), strict=True))
    own = [row for row in found if by_row[int(Path(row["id"]).stem)] == int(row["group"])]
    assert own
    for row in own:
        assert row["neighbor_1"] == Path(row["id"]).stem
    for row in found:
        assert by_row[int(row["neighbor_1"])] == by_row[int(row["neighbor_2"])] == int(row["group"])
    monkeypatch.setattr("rgjax.predict.neighbors.load_data", None)  # a second call finds them in the cache
    command(of_digits, *paths, "--neighbors=2")
    assert table(capsys.readouterr().out) == found


def test_without_the_data_neighbors_are_empty(of_digits, photos, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RGJAX_CACHE", str(tmp_path))

    def gone(config):
        raise UserError("the download is gone")

    monkeypatch.setattr("rgjax.predict.neighbors.load_data", gone)
    command(of_digits, photos / "b.png")
    out, err = capsys.readouterr()
    assert "neighbors are left empty: the download is gone" in err
    assert [table(out)[0][f"neighbor_{i}"] for i in (1, 2, 3)] == ["", "", ""]


def test_sentences_come_from_lines_tables_and_the_command(of_text, tmp_path, capsys):
    (tmp_path / "lines.txt").write_bytes("profit rose\r\n\nprofit fell .\nna\xefve".encode("latin-1"))
    (tmp_path / "table.csv").write_text("id,text\nx7,profit rose\n,flat\n")
    (tmp_path / "broken.jsonl").write_text('{"text": "w1"}\n{"other": 2}\n')
    command(of_text, tmp_path / "lines.txt", tmp_path / "table.csv", tmp_path / "broken.jsonl", "--text=profit rose",
            "--neighbors=1", exit_code=2)  # fmt: skip
    out, err = capsys.readouterr()
    rows = table(out)
    lines, own = tmp_path / "lines.txt", tmp_path / "table.csv"
    assert [row["id"] for row in rows] == ["--text:1", f"{lines}:1", f"{lines}:3", f"{own}:x7", f"{own}:2"]
    for name in ("class", "p_neutral", "group_probability", "neighbor_1"):
        assert rows[0][name] == rows[1][name] == rows[3][name] != ""
    assert f"rgjax: {lines}:4: this is not text in UTF-8" in err
    assert f"rgjax: {tmp_path / 'broken.jsonl'}, line 2: there is no column 'text'" in err
    assert err.splitlines()[-1] == "predicted 5 of 7; 2 could not be read"
    command(of_text, own, "--neighbors=0")
    assert [row["id"] for row in table(capsys.readouterr().out)] == ["x7", "2"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--workdir=DIR of a finished run is missing"),
        (["--workdir=x"], "INPUT is missing"),
        (["--workdir=x", "a.png", "--neighbors=3"], "unknown option '--neighbors=3' (did you mean '--neighbors'?)"),
        (["--workdir=x", "a.png", "--neighbors=few"], "invalid int value: 'few'"),
        (["--workdir=x", "a.png", "--neighbors=-1"], "--neighbors=-1 is negative"),
        (["--workdir=x", "a.png", "--aggregate=mean"], "--aggregate: invalid choice: 'mean'"),
        (["--workdir=x", "a.png", "--output=a.txt"], "ends neither in .csv nor in .jsonl"),
        (["--workdir=x", "s3://bucket/a.png"], "mount the object store"),
        (["--workdir=x", "a.png", "--export=y"], "--export and predicting are two calls"),
        (["--workdir=x", "a.png"], "--workdir: there is no folder x"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_one_line(arguments, says):
    with pytest.raises(UserError) as error:
        __main__.main(arguments)
    assert says in str(error.value)


def test_sentences_are_nothing_for_a_run_of_images(of_digits):
    with pytest.raises(UserError, match="was trained on images"):
        command(of_digits, "--text=profit")


def test_what_was_written_outlasts_a_failure(of_digits, photos, tmp_path, monkeypatch):
    nearest = []

    def fail(self, features, groups, count):
        nearest.append(1)
        if len(nearest) == 2:
            raise KeyboardInterrupt
        return [[]] * len(groups)

    monkeypatch.setattr("rgjax.predict.neighbors.Neighbors.nearest", fail)
    with pytest.raises(KeyboardInterrupt):
        command(of_digits, photos, "--batch-size=1", f"--output={tmp_path / 'found.csv'}")
    assert len(table((tmp_path / "found.csv.part").read_text())) == 1
    assert not (tmp_path / "found.csv").exists()


@pytest.mark.long
def test_the_command_in_its_own_process(of_digits, photos, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-m", "rgjax.predict", f"--workdir={of_digits}"]
    process = subprocess.run([*run, str(photos), "nowhere.png"], cwd=ROOT, env=environment, capture_output=True,
                             text=True, timeout=300)  # fmt: skip
    assert process.returncode == 2, process.stderr
    assert len(table(process.stdout)) == 3
    assert process.stderr.splitlines()[-1] == "predicted 3 of 4; 1 could not be read"
    process = subprocess.run([*run, "--aggregat=max", "x"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (process.returncode, len(process.stderr.splitlines())) == (2, 1)
    process = subprocess.run([*run[:3], "--help"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode == 0 and "--neighbors=N" in process.stdout
