"""The predict command on images, sentences and unreadable inputs, with untrained networks."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from rgjax.data.pictures.decode import decode
from rgjax.errors import UserError
from rgjax.predict import __main__
from rgjax.predict.predictor import Predictor
from tests.support.finished import digits, digits_run, text_run
from tests.support.pictures import png16

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def of_digits():
    return digits_run(trained=False)


@pytest.fixture(scope="module")
def of_text():
    return text_run(trained=False)


@pytest.fixture
def photos(tmp_path):
    """Three images at two depths, hidden images, a link to the folder and a file that is not an image."""
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


def test_a_folder_of_images_becomes_a_table(of_digits, photos, capsys):
    (photos / "b.png").write_bytes(png16(np.random.default_rng(0).integers(0, 4096, (20, 30))))  # 12 bits
    command(of_digits, photos, "--neighbors=0")
    out, err = capsys.readouterr()
    rows = table(out)
    paths = [photos / name for name in ("b.png", "deep/a.jpg", "deep/c.png")]
    assert [row["id"] for row in rows] == [str(path) for path in paths]
    assert list(rows[0]) == ["id", "class", "p_rest", "p_8", "group", "group_class", "group_probability",
                             "decision", "temperature"]  # fmt: skip
    expected = Predictor.from_run(of_digits)(np.stack([decode(path, 16) for path in paths]))
    probabilities = np.array([[float(row["p_rest"]), float(row["p_8"])] for row in rows])
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)
    assert [row["class"] for row in rows] == [("rest", "8")[top] for top in expected.argmax(axis=1)]
    *_, rescaled, predicted = err.splitlines()
    assert rescaled.startswith("note: 1 image rescaled") and str(photos / "b.png") in rescaled
    assert predicted == "predicted 3 of 3"


def test_unreadable_images_are_reported_and_the_rest_predicted(of_digits, photos, tmp_path, capsys):
    (photos / "broken.png").write_bytes((photos / "b.png").read_bytes()[:60])
    (photos / "deep" / "empty.jpg").write_text("")
    output = tmp_path / "predictions.jsonl"
    command(of_digits, photos / "nowhere.png", f"--output={output}", photos, "--batch-size=2", "--neighbors=0",
            exit_code=2)  # fmt: skip
    out, err = capsys.readouterr()
    assert out == ""
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [Path(row["id"]).name for row in rows] == ["b.png", "a.jpg", "c.png"]
    assert sum(row[f"p_{name}"] for row in rows for name in ("rest", "8")) == pytest.approx(3, abs=1e-4)
    messages = [line for line in err.splitlines() if line.startswith("rgjax: ")]
    assert [Path(line.split(": ")[1]).name for line in messages] == ["nowhere.png", "broken.png", "empty.jpg"]
    assert "No such file" in messages[0] and "empty file" in messages[2]
    assert err.splitlines()[-1] == "predicted 3 of 6; 3 could not be read"
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.long
def test_batches_keep_the_order_of_inputs(of_digits, tmp_path, capsys, monkeypatch):
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
    predicted = table(capsys.readouterr().out)
    group_of = dict(zip(rows.tolist(), groups.tolist(), strict=True))
    correct = [row for row in predicted if group_of[int(Path(row["id"]).stem)] == int(row["group"])]
    assert correct
    for row in correct:
        assert row["neighbor_1"] == Path(row["id"]).stem
    for row in predicted:
        assert group_of[int(row["neighbor_1"])] == group_of[int(row["neighbor_2"])] == int(row["group"])
    monkeypatch.setattr("rgjax.predict.neighbors.load_data", None)  # a second call reads the cache
    command(of_digits, *paths, "--neighbors=2")
    assert table(capsys.readouterr().out) == predicted


def test_neighbors_are_empty_without_the_data_set(of_digits, photos, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RGJAX_CACHE", str(tmp_path))

    def gone(config):
        raise UserError("the download is gone")

    monkeypatch.setattr("rgjax.predict.neighbors.load_data", gone)
    command(of_digits, photos / "b.png")
    out, err = capsys.readouterr()
    assert "neighbors are left empty: the download is gone" in err
    assert [table(out)[0][f"neighbor_{i}"] for i in (1, 2, 3)] == ["", "", ""]


@pytest.mark.parametrize("kind", ["images", "sentences"])
def test_files_of_a_folder_that_are_not_read_are_noted(kind, of_digits, of_text, photos, capsys):
    if kind == "images":
        (photos / "deep" / "scan.pdf").write_bytes(b"%PDF")
        command(of_digits, photos, "--neighbors=0")
        expected = "note: 2 files skipped, of kinds that are not read: "
    else:
        (photos / "deep" / "table.csv").write_text("text\nprofit rose\n")
        command(of_text, photos, "--neighbors=0")
        expected = "note: 3 files skipped, of kinds that are not read: "
    [line] = [line for line in capsys.readouterr().err.splitlines() if "files skipped" in line]
    assert line.startswith(expected)


def test_texts_that_are_cut_are_noted_at_the_end(of_text, tmp_path, capsys):
    lines = ["profit rose .", "profit " * 30, "flat w1 .", "fell " * 40]  # the run cuts at 20 tokens
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    command(of_text, tmp_path / "lines.txt", "--neighbors=0")
    out, err = capsys.readouterr()
    assert len(table(out)) == 4
    note, end = err.splitlines()[-2:]
    cut = (30 + 2 - 20 + 40 + 2 - 20) / (5 + 32 + 5 + 42)  # with [CLS] and [SEP]
    assert note.startswith(
        f"note: 2 texts cut at 20 tokens, which leaves {100 * cut:.2g} % of all tokens unread: 2, 4;"
    )
    assert end == "predicted 4 of 4"
    command(of_text, "--text=profit rose .", "--neighbors=0")
    assert "note:" not in capsys.readouterr().err


def test_sentences_are_read_from_lines_tables_and_the_command_line(of_text, tmp_path, capsys):
    (tmp_path / "lines.txt").write_bytes("profit rose\r\n\nprofit fell .\nna\xefve".encode("latin-1"))
    (tmp_path / "table.csv").write_text("id,text\nx7,profit rose\n,flat\n")
    (tmp_path / "broken.jsonl").write_text('{"text": "w1"}\n{"other": 2}\n')
    command(of_text, tmp_path / "lines.txt", tmp_path / "table.csv", tmp_path / "broken.jsonl", "--text=profit rose",
            "--neighbors=1", exit_code=2)  # fmt: skip
    out, err = capsys.readouterr()
    rows = table(out)
    lines, csv_file = tmp_path / "lines.txt", tmp_path / "table.csv"
    ids = ["--text:1", f"{lines}:1", f"{lines}:3", f"{csv_file}:x7", f"{csv_file}:2", f"{tmp_path / 'broken.jsonl'}:1"]
    assert [row["id"] for row in rows] == ids
    for name in ("class", "p_neutral", "group_probability", "neighbor_1"):
        assert rows[0][name] == rows[1][name] == rows[3][name] != ""
    assert f"rgjax: {lines}:4: not text in UTF-8" in err
    assert f"rgjax: {tmp_path / 'broken.jsonl'}, line 2: no column 'text'" in err
    assert err.splitlines()[-1] == "predicted 6 of 8; 2 could not be read"
    command(of_text, csv_file, "--neighbors=0")
    assert [row["id"] for row in table(capsys.readouterr().out)] == ["x7", "2"]


ROWS = ["profit rose", "profit fell .", "", "w1 w2", "flat"]


def write_texts(path, column="text"):
    """A table of `ROWS` with labels, in the format of the suffix."""
    if path.suffix == ".parquet":
        texts = [text or None for text in ROWS]
        parquet.write_table(pa.table({column: texts, "label": ["a"] * len(ROWS)}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({column: text, "label": None}) + "\n" for text in ROWS))
    else:
        path.write_text(f"{column},label\n" + "".join(f"{text},a\n" for text in ROWS))
    return path


@pytest.mark.parametrize(("name", "place"), [("a.csv", "line 4"), ("a.jsonl", "line 3"), ("a.parquet", "row 3")])
def test_a_bad_row_of_a_table_is_named_and_the_others_predicted(name, place, of_text, tmp_path, capsys):
    path = write_texts(tmp_path / name)
    command(of_text, path, "--neighbors=0", exit_code=2)
    out, err = capsys.readouterr()
    rows = table(out)
    assert [row["id"] for row in rows] == ["1", "2", "4", "5"]
    assert f"rgjax: {path}, {place}: column 'text' is empty" in err
    assert err.splitlines()[-1] == "predicted 4 of 5; 1 could not be read"
    command(of_text, *(f"--text={text}" for text in ROWS if text), "--neighbors=0")
    assert [row["class"] for row in table(capsys.readouterr().out)] == [row["class"] for row in rows]


@pytest.mark.parametrize(
    ("content", "bad"),
    [
        ('text,label\n"Great, loved it,pos\nfine,pos\nso,neg\nbad "acting",neg\nnice,pos\n', ["line 2"]),
        ("text,label\nw1,a\nw2\nw3,a\n", ["line 3"]),
        ("text\nw1\nP\xf6rssi\nw2\n", ["line 3"]),
        ("text,label\nw1,nan\nw2,\n", []),  # labels are not needed
    ],
)
def test_rows_of_every_kind_of_fault_are_named(content, bad, of_text, tmp_path, capsys):
    (tmp_path / "a.csv").write_bytes(content.encode("latin-1"))
    command(of_text, tmp_path / "a.csv", "--neighbors=0", exit_code=2 * bool(bad))
    out, err = capsys.readouterr()
    assert [line.split(": ")[1] for line in err.splitlines() if line.startswith("rgjax: ")] == [
        f"{tmp_path / 'a.csv'}, {place}" for place in bad
    ]
    assert len(table(out)) == content.count("\n") - 1 - len(bad)


def test_columns_are_those_of_the_option_or_the_run_or_the_roles(of_text, tmp_path, capsys, monkeypatch):
    mapped, plain = write_texts(tmp_path / "a.csv", "review"), write_texts(tmp_path / "b.csv")
    command(of_text, mapped, "--neighbors=0", exit_code=2)
    assert "no column 'text'; columns: review, label; if others are meant, name them: --columns=text:review" in (
        capsys.readouterr().err
    )
    command(of_text, mapped, "--columns=text:review", "--neighbors=0", exit_code=2)
    assert len(table(capsys.readouterr().out)) == 4
    command(of_text, plain, "--columns=text:review", "--neighbors=0", exit_code=2)
    assert "no column 'review', which --columns names" in capsys.readouterr().err

    load = Predictor.from_run

    def of_run_with_columns(workdir, **options):
        predictor = load(workdir, **options)
        predictor.run.config.data.columns = "text:review,label:stars"
        return predictor

    monkeypatch.setattr(Predictor, "from_run", of_run_with_columns)
    command(of_text, mapped, plain, "--neighbors=0", exit_code=2)
    assert len(table(capsys.readouterr().out)) == 8


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_a_table_of_paths_is_read_row_by_row(suffix, of_digits, photos, tmp_path, capsys):
    names = ["photos/b.png", r"photos\deep\a.jpg", "photos/nowhere.png", "", "photos/notes.txt"]
    path = tmp_path / f"list{suffix}"
    if suffix == ".parquet":
        parquet.write_table(pa.table({"path": names, "id": [f"x{i}" for i in range(5)]}), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps({"path": name, "id": f"x{i}"}) + "\n" for i, name in enumerate(names)))
    else:
        path.write_text("path,id\n" + "".join(f"{name},x{i}\n" for i, name in enumerate(names)))
    command(of_digits, path, "--neighbors=0", exit_code=2)
    out, err = capsys.readouterr()
    assert [row["id"] for row in table(out)] == ["x0", "x1"]
    assert err.splitlines()[-1] == "predicted 2 of 5; 3 could not be read"
    assert "note: 1 path spelled otherwise than the file that is read: x1" in err
    command(of_digits, photos / "b.png", photos / "deep" / "a.jpg", "--neighbors=0")
    assert [row["p_8"] for row in table(capsys.readouterr().out)] == [row["p_8"] for row in table(out)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--workdir=DIR of a finished run is missing"),
        (["--workdir=x"], "INPUT is missing"),
        (["--workdir=x", "a.png", "--neighbours=3"], "unknown option '--neighbours=3' (did you mean '--neighbors'?)"),
        (["--workdir=x", "a.png", "--neighbors=few"], "invalid int value: 'few'"),
        (["--workdir=x", "a.png", "--neighbors=-1"], "--neighbors=-1: must be at least 0"),
        (["--workdir=x", "a.png", "--aggregate=mean"], "--aggregate: invalid choice: 'mean'"),
        (["--workdir=x", "a.png", "--output=a.txt"], "ends neither in .csv nor in .jsonl"),
        (["--workdir=x", "s3://bucket/a.png"], "not a local path; mount the bucket"),
        (["--workdir=x", "-", "-"], "standard input can be read only once"),
        (["--workdir=x", "a.png", "--export=y"], "--export: does not predict"),
        (["--workdir=x", "a.png"], "--workdir=x: there is no such folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_a_user_error(arguments, says):
    with pytest.raises(UserError) as error:
        __main__.main(arguments)
    assert says in str(error.value)


def test_options_take_hyphens_and_underscores():
    assert __main__.parse(["--workdir=x", "a", "--batch-size=4"]) == __main__.parse(
        ["--workdir=x", "a", "--batch_size=4"]
    )


def test_a_sentence_is_refused_by_a_run_on_images(of_digits):
    with pytest.raises(UserError, match="was trained on images"):
        command(of_digits, "--text=profit")


def test_rows_written_before_a_failure_are_kept(of_digits, photos, tmp_path, monkeypatch):
    nearest = []

    def fail(self, features, groups, count):
        nearest.append(1)
        if len(nearest) == 2:
            raise KeyboardInterrupt
        return [[]] * len(groups)

    monkeypatch.setattr("rgjax.predict.neighbors.Neighbors.nearest", fail)
    with pytest.raises(KeyboardInterrupt):
        command(of_digits, photos, "--batch-size=1", f"--output={tmp_path / 'rows.csv'}")
    assert len(table((tmp_path / "rows.csv.part").read_text())) == 1
    assert not (tmp_path / "rows.csv").exists()


@pytest.mark.long
def test_the_command_in_its_own_process(of_digits, photos, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-m", "rgjax.predict", f"--workdir={of_digits}"]
    process = subprocess.run([*run, str(photos), "nowhere.png"], cwd=ROOT, env=environment, capture_output=True,
                             text=True, timeout=300)  # fmt: skip
    assert process.returncode == 2, process.stderr
    assert len(table(process.stdout)) == 3
    assert process.stderr.splitlines()[-1] == "predicted 3 of 4; 1 could not be read"


def test_mistakes_exit_with_2_and_help_with_0(monkeypatch, capsys):
    for arguments, code in ((["--aggregat=max", "x"], 2), (["--help"], 0)):
        monkeypatch.setattr(sys, "argv", ["predict", *arguments])
        with pytest.raises(SystemExit) as exit_:
            __main__.cli()
        assert exit_.value.code == code
    out, err = capsys.readouterr()
    assert "--neighbors=N" in out
    assert len(err.splitlines()) == 1 and err.startswith("rgjax: unknown option '--aggregat=max'")
