"""Every reader accounts for what is there.

Inputs with random faults are generated. Examples read + things noted as skipped = things there, or one line refuses the
whole and names it.
"""

import csv
import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, note
from hypothesis import strategies as st
from PIL import Image

from rgjax.data import images, text
from rgjax.data.custom import list_images
from rgjax.data.ham10000 import read_download
from rgjax.data.notes import KINDS, Note
from rgjax.data.tables.columns import Columns
from rgjax.errors import UserError
from rgjax.predict import inputs
from tests.support import isic
from tests.support.data import data_config


def skipped(notes: tuple[Note, ...]) -> int:
    return sum(one.count for one in notes if KINDS[one.kind].skips)


def account(read: Callable[[], tuple[int, tuple[Note, ...]]], there: int, place: Path) -> bool:
    """Hold that all of what is there was read or noted, or that one line names the place; returns which."""
    try:
        number, notes = read()
    except UserError as error:
        note(str(error))
        assert str(error).isprintable()
        assert str(place) in str(error) or str(error).startswith("too few")  # the classes are named, not the place
        return False
    assert all(str(one).isprintable() for one in notes)
    assert (number, skipped(notes)) == (there - skipped(notes), skipped(notes)), [str(one) for one in notes]
    return True


def read_images(place: Path, unreadable: str = "skip"):
    source = images.load(
        data_config("images", manual_dir=str(place), unreadable=unreadable, image_size=4, split="auto")
    )
    assert len(source.inputs) == len(source.labels) == len(set(source.ids))
    return len(source.labels), source.notes


# Folders of images


def picture(path: Path, seed: int = 0, **how) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    Image.fromarray(pixels).save(path, **{"format": "PNG"} | how)
    return 1


def content(path: Path, data: bytes) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return 1


def link(path: Path, target: Path) -> int:
    path.symlink_to(target)
    return 1


def pipe(path: Path) -> int:
    os.mkfifo(path)
    return 1


def frames(path: Path) -> int:
    first, *rest = [Image.fromarray(np.full((5, 6, 3), level, np.uint8)) for level in (0, 90, 180)]
    first.save(path, "GIF", save_all=True, append_images=rest)
    return 1


# Each puts something into a class folder, from a root and a number, and returns how many things a user sees there.
IN_FOLDERS = {
    "upper case": lambda folder, root, n: picture(folder / f"{n}.JPG", n, format="JPEG"),
    "nested": lambda folder, root, n: picture(folder / "more" / "deep" / f"{n}.png", n),
    "two dots": lambda folder, root, n: picture(folder / f"a.{n}.jpg.png", n),
    "no suffix": lambda folder, root, n: picture(folder / f"IMG{n}", n),
    "wrong suffix": lambda folder, root, n: picture(folder / f"{n}.bmp", n, format="JPEG"),
    "16 bits": lambda folder, root, n: content(folder / f"{n}.pgm", b"P5 2 2 4095\n" + b"\x0f\xff\0\1" * 2),
    "frames": lambda folder, root, n: frames(folder / f"{n}.gif"),
    "blank": lambda folder, root, n: content(folder / f"{n}.ppm", b"P6 2 1 255\n" + b"\0" * 6),
    "cut": lambda folder, root, n: content(folder / f"{n}.png", b"\x89PNG\r\n\x1a\n"),
    "empty": lambda folder, root, n: content(folder / f"{n}.jpeg", b""),
    "page of an error": lambda folder, root, n: content(folder / f"{n}.jpg", b"<html>404</html>"),
    "text": lambda folder, root, n: content(folder / f"{n}.txt", b"text"),
    "other kind": lambda folder, root, n: content(folder / f"{n}.heic", b"heic"),
    "no suffix, no image": lambda folder, root, n: content(folder / f"README{n}", b"text"),
    "hidden": lambda folder, root, n: picture(folder / f".{n}.png", n),
    "of a Mac": lambda folder, root, n: content(folder / f"._{n}.png", b"\0\5\x16\7"),
    "two lines": lambda folder, root, n: content(folder / f"two\nlines{n}.txt", b"text"),
    "stray": lambda folder, root, n: content(root / f"list{n}.md", b"text"),
    "stray image": lambda folder, root, n: picture(root / f"{n}.png", n),
    "trash": lambda folder, root, n: picture(root / f".Trash-{n}" / "files" / "0.png", n),
    "link": lambda folder, root, n: link(folder / f"link{n}.png", folder / "0.png"),
    "broken link": lambda folder, root, n: link(folder / f"link{n}.png", folder / "nowhere.png"),
    "pipe": lambda folder, root, n: pipe(folder / f"pipe{n}.png"),
    "link to the root": lambda folder, root, n: link(folder / f"root{n}", root) - 1,
    "system file": lambda folder, root, n: content(folder / "Thumbs.db", b"") - 1,
}
SOME_IN_FOLDERS = st.lists(st.tuples(st.sampled_from(sorted(IN_FOLDERS)), st.integers(0, 5)), max_size=12)


@given(SOME_IN_FOLDERS, st.sampled_from([["."], ["train", "test"], ["Training", "valid", "TEST"]]), st.booleans())
def test_folders_of_images(faults, splits, stop):
    with TemporaryDirectory() as place:
        root = Path(place)
        folders = [root / split / name for split in splits for name in ("cat", "dog")]
        there = sum(picture(folder / f"{n}.png", n) for folder in folders for n in range(4))
        for number, (name, which) in enumerate(faults, start=10):
            there += IN_FOLDERS[name](folders[which % len(folders)], root, number)
        whole = account(lambda: read_images(root, "stop" if stop else "skip"), there, root)
        assert whole or stop or len(splits) > 1


# Tables

SENTENCES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", categories=("L", "N", "P", "Zs")), max_size=12
)
FIELDS = st.one_of(SENTENCES, st.sampled_from(['"', '"a', 'a"', 'he said "no"', "a,b", "a;b", "a\tb", "nan", "  ", ""]))
LABELS = st.sampled_from(["good", "bad", "ugly", "good ", "", "nan", "1", "1.0", "Good"])
ROWS = st.lists(st.tuples(FIELDS, LABELS), max_size=8)
# Each class has more than the rows that a stray quotation mark may swallow.
WHOLE = [(f"text {number}", label) for number, label in enumerate(["good", "bad", "ugly", "nan", "1", "1.0", "Good"])]


def written_by_csv(rows, delimiter, ending, **how):
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, lineterminator=ending, **how).writerows(rows)
    return file.getvalue()


def parquet(rows):
    file = pa.BufferOutputStream()
    columns = {name: [row[number] for row in rows[1:]] for number, name in enumerate(rows[0])}
    pq.write_table(pa.table(columns), file, row_group_size=3)
    return file.getvalue().to_pybytes()


# Rows, the first of which is the header, as a table's content.
FORMATS = {
    "comma.csv": lambda rows: written_by_csv(rows, ",", "\r\n"),
    "semicolon.csv": lambda rows: written_by_csv(rows, ";", "\n"),
    "tab.csv": lambda rows: written_by_csv(rows, "\t", "\n"),
    "all.csv": lambda rows: written_by_csv(rows, ",", "\n", quoting=csv.QUOTE_ALL),
    "naive.csv": lambda rows: "\n".join(",".join(row) for row in rows),
    "plain.tsv": lambda rows: "\n".join("\t".join(row) for row in rows) + "\n",
    "quoted.tsv": lambda rows: written_by_csv(rows, "\t", "\n"),
    "table.parquet": parquet,
    "one_line.json": lambda rows: json.dumps([dict(zip(rows[0], row, strict=True)) for row in rows[1:]]),
    "array.json": lambda rows: json.dumps([dict(zip(rows[0], row, strict=True)) for row in rows[1:]], indent=1),
    "lines.jsonl": lambda rows: "\n".join(json.dumps(dict(zip(rows[0], row, strict=True))) for row in rows[1:]),
    "blank.jsonl": lambda rows: "\n\n".join(json.dumps(dict(zip(rows[0], row, strict=True))) for row in rows[1:]),
}


# Lines that do not belong into a table, with the number of rows that a user sees in them.
LINES = {"": 0, "one": 1, "a,b,c,d,e": 1, '"open': 1, "#": 1, "text,label": 1, '{"text": 1': 1, '{"label": "x"}': 1}
SOME_LINES = st.lists(st.tuples(st.sampled_from(sorted(LINES)), st.integers(1, 9)), max_size=2)


def write_table(table: Path, rows, lines=(), encoding="utf-8", form="") -> int:
    """Write a table of sentences and foreign lines; returns the number of rows."""
    written = FORMATS[form or table.name]([("text", "label"), *rows])
    if isinstance(written, bytes):
        table.write_bytes(written)
        return len(rows)
    of_table = written.splitlines(keepends=True)
    of_table[-1] = of_table[-1].rstrip("\n") + "\n"
    for line, index in lines:
        of_table.insert(index, line + "\n")
    note("".join(of_table))
    table.write_bytes("".join(of_table).encode(encoding))
    return len(rows) + sum(LINES[line] for line, _ in lines)


@given(
    ROWS,
    SOME_LINES,
    st.sampled_from(sorted(FORMATS)),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["stop", "skip"]),
)
def test_tables_of_sentences(rows, lines, name, encoding, unreadable):
    rows = [*WHOLE, *rows]
    with TemporaryDirectory() as place:
        table = Path(place) / name
        there = write_table(table, rows, lines, encoding)

        def read():
            source = text.load(data_config("text", manual_dir=str(table), unreadable=unreadable))
            labels = [source.class_names[label] for label in source.labels]
            sentences = {(sentence, label.strip()) for sentence, label in zip(source.inputs, labels, strict=True)}
            if not any(one.kind == "literal_quote" for one in source.notes):  # quotes of a .tsv may be text
                assert sentences <= {(sentence, label.strip()) for sentence, label in rows}
            return len(labels), source.notes

        account(read, there, table)


@given(st.lists(ROWS, min_size=2, max_size=3), SOME_LINES, st.sampled_from(sorted(FORMATS)), st.booleans())
def test_tables_of_splits(parts, lines, form, stop):
    with TemporaryDirectory() as place:
        there, suffix = 0, Path(form).suffix
        for name, rows in zip(("train", "test", "val"), parts, strict=False):
            there += write_table(Path(place) / f"{name}{suffix}", [*WHOLE, *rows], lines, form=form)

        def read():
            source = text.load(data_config("text", manual_dir=place, unreadable="stop" if stop else "skip"))
            assert source.official_test is not None
            return len(source.labels), source.notes

        account(read, there, Path(place))


PATHS = ["{}.png", "./{}.png", "deep\\{}.png", "deep/{}.png", "{}.PNG", "gone{}.png", "cut.png", "deep", "", "0.png"]


@given(st.lists(st.tuples(st.sampled_from(PATHS), LABELS), max_size=6), st.sampled_from(["csv", "tsv", "jsonl"]))
def test_tables_of_images(rows, suffix):
    with TemporaryDirectory() as place:
        root = Path(place)
        for number in range(8):
            picture(root / f"{number}.png", number)
        named = [(f"{number}.png", ("good", "bad")[number % 2]) for number in range(8)]
        for number, (path, label) in enumerate(rows, start=20):
            picture(root / f"{number}.png", number)
            picture(root / "deep" / f"{number}.png", number)
            named.append((path.format(number), label))
        content(root / "cut.png", b"\x89PNG")
        table = root / f"table.{suffix}"
        form = {"csv": "comma.csv", "tsv": "plain.tsv", "jsonl": "lines.jsonl"}[suffix]
        table.write_text(FORMATS[form]([("path", "label"), *named]))
        note(table.read_text())
        account(lambda: read_images(table), len(named), table)


# Hugging Face's forms

ROWS_OF_IMAGES = st.lists(st.sampled_from(["good", "gone", "cut", "no label", "unlisted", "other"]), max_size=6)


@given(ROWS_OF_IMAGES, st.sampled_from(["csv", "jsonl"]), st.sampled_from([["."], ["train", "test"]]), st.booleans())
def test_folders_with_metadata(rows, suffix, splits, stop):
    with TemporaryDirectory() as place:
        root, there = Path(place), 0
        for folder in (root / split for split in splits):
            named = [(f"{n}.png", ("good", "bad")[n % 2]) for n in range(8) if picture(folder / f"{n}.png", n)]
            for number, row in enumerate(rows, start=10):
                if row in ("good", "no label", "unlisted"):
                    picture(folder / f"{number}.png", number)
                elif row in ("cut", "other"):
                    content(folder / f"{number}.{'png' if row == 'cut' else 'txt'}", b"\x89PNG")
                if row not in ("unlisted", "other"):
                    named.append((f"{number}.png", "" if row == "no label" else "good"))
            there += 8 + len(rows)
            table = FORMATS["comma.csv" if suffix == "csv" else "lines.jsonl"]([("file_name", "label"), *named])
            (folder / f"metadata.{suffix}").write_text(table)
        account(lambda: read_images(root, "stop" if stop else "skip"), there, root)


@given(st.lists(st.sampled_from(["good", "null", "cut", "empty", "no label"]), max_size=8), st.booleans())
def test_parquet_with_images(rows, stop):
    with TemporaryDirectory() as place:
        file, one = Path(place) / "part.parquet", Path(place) / "one.png"
        picture(one)
        contents = {"null": None, "cut": {"bytes": b"\x89PNG", "path": "a.png"}, "empty": {"bytes": b"", "path": None}}
        good = {"bytes": one.read_bytes(), "path": None}
        columns = {
            "image": [good] * 8 + [contents.get(row, good) for row in rows],
            "label": ["good", "bad"] * 4 + [None if row == "no label" else "good" for row in rows],
        }
        pq.write_table(pa.table(columns), file, row_group_size=3)
        account(lambda: read_images(file, "stop" if stop else "skip"), 8 + len(rows), file)


# Arrays


@given(
    st.dictionaries(st.sampled_from(["train", "val", "test"]), st.integers(0, 9), max_size=3),
    st.sampled_from([(5, 6), (5, 6, 3), (5, 6, 1), (5, 6, 2), (4, 4, 4, 1), (5,)]),
    st.sampled_from(["uint8", "float32", "int64"]),
    st.sampled_from([(), (1,), (2,)]),
    st.sampled_from(["", "no labels", "few labels", "cut"]),
)
def test_arrays(counts, shape, kind, label_shape, fault):
    with TemporaryDirectory() as place:
        file, arrays, rng = Path(place) / "some.npz", {}, np.random.default_rng(0)
        for split, count in counts.items():
            arrays[f"{split}_images"] = rng.integers(0, 256, (count, *shape)).astype(kind)
            labels = np.resize(np.arange(count) % 2, (count, *label_shape))
            arrays |= {} if fault == "no labels" else {f"{split}_labels": labels[fault == "few labels" :]}
        np.savez_compressed(file, **arrays)
        if fault == "cut":
            file.write_bytes(file.read_bytes()[:-50])
        account(lambda: read_images(file), sum(counts.values()), file)


# HAM10000

IN_DOWNLOADS = {
    "mask": lambda root, n: isic.mask(root / "masks" / f"{isic.NAMES[n]}.png"),
    "mask by name": lambda root, n: isic.mask(root / isic.PART_1 / f"{isic.NAMES[n]}_segmentation.png"),
    "copy": lambda root, n: isic.photograph(root / "ham10000_images_part_1" / f"{isic.NAMES[n]}.jpg", n),
    "another photograph": lambda root, n: isic.photograph(root / "resized" / f"{isic.NAMES[n]}.jpg", 99),
    "unlisted": lambda root, n: isic.photograph(root / "part_2" / f"ISIC_9{n:06d}.JPG"),
    "hidden": lambda root, n: isic.photograph(root / "__MACOSX" / f"._{isic.NAMES[n]}.jpg"),
}


@given(st.sets(st.tuples(st.sampled_from(sorted(IN_DOWNLOADS)), st.integers(0, 13)), max_size=8))
def test_downloads_of_ham10000(faults):
    with TemporaryDirectory() as place:
        root = isic.download_of(Path(place))
        for name, number in faults:
            IN_DOWNLOADS[name](root, number)
        there = 14 + sum(name != "hidden" for name, _ in faults)

        def read():
            download = read_download(root)
            assert {path.parent.name for path in download.images.values()} <= {isic.PART_1, "ham10000_images_part_1"}
            return len(download.images), download.notes

        assert account(read, there, root) != any(name == "another photograph" for name, _ in faults)


# Inputs of predictions: one output for each input


@given(ROWS, SOME_LINES, st.sampled_from(sorted(FORMATS)))
def test_predictions_of_tables_of_sentences(rows, lines, name):
    rows = [*WHOLE, *rows]
    with TemporaryDirectory() as place:
        table = Path(place) / name
        there = write_table(table, rows, lines)
        outputs = list(inputs.sentences([str(table)], (), Columns()))
    if len(outputs) == 1 and outputs[0].fault:
        assert str(table) in outputs[0].fault
        return
    passed = "text,label" in [line for line, _ in lines]  # a repeated header is no input
    assert there - passed * len(lines) <= len(outputs) <= there
    if name != "quoted.tsv":  # its quotes may be text
        assert {row.content for row in outputs if not row.fault} <= {sentence for sentence, _ in rows}


NOT_GIVEN = {"two lines", "text", "other kind", "no suffix, no image", "hidden", "of a Mac", "stray", "trash"}


@given(SOME_IN_FOLDERS)
def test_predictions_of_folders_of_images(faults):
    with TemporaryDirectory() as place:
        folder = Path(place) / "new"
        given_images = sum(picture(folder / f"{n}.png", n) for n in range(2))
        for number, (name, _) in enumerate(faults, start=10):
            made = IN_FOLDERS[name](folder, folder, number)
            given_images += made and name not in NOT_GIVEN
        outputs = list(inputs.images([str(folder)], 4, "bilinear", Columns()))
    assert len([row for row in outputs if row.id]) == given_images


def test_files_that_are_not_predicted_are_counted(tmp_path, capsys):
    picture(tmp_path / "a.png")
    for name in ("b.heic", "c.heic", "d.txt"):
        content(tmp_path / name, b"?")
    assert [row.id for row in inputs.images([str(tmp_path)], 4, "bilinear", Columns())] == [str(tmp_path / "a.png")]
    assert "note: 3 files skipped, of kinds that are not read: 2 .heic (HEIC" in capsys.readouterr().err
    outputs = list(inputs.sentences([str(tmp_path)], (), Columns()))
    assert [(row.id, row.content) for row in outputs] == [(f"{tmp_path / 'd.txt'}:1", "?")]
    assert "note: 3 files skipped, of kinds that are not read: 2 .heic (HEIC" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["data", "data/cat", "data/cat/deep"])
def test_folders_that_cannot_be_read_are_named(name, tmp_path, monkeypatch):
    isic.photographs(isic.download_of(tmp_path / "data") / "cat" / "deep")
    locked, scandir = str(tmp_path / name), os.scandir

    def refusing(path):
        if os.fspath(path) == locked:
            raise PermissionError(errno.EACCES, "Permission denied", locked)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    reason = f"{locked}: Permission denied"
    assert reason in [row.fault for row in inputs.images([str(tmp_path / "data")], 4, "bilinear", Columns())]
    with pytest.raises(UserError) as error:
        read_download(tmp_path / "data")
    assert str(error.value) == reason
    (tmp_path / "data" / "HAM10000_metadata.csv").unlink()
    with pytest.raises(PermissionError, match="Permission denied"):  # one line at the edge of a command
        list_images(str(tmp_path / "data"))
