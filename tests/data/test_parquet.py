"""Parquet tables: every kind of column that holds texts or labels, nulls, and files that are no honest table."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from rgjax.data.custom import list_sentences
from rgjax.errors import UserError

TEXTS = ["Sales fell, again", "She said 'up'\nand left", "Pörssi 🧀", "so so"]


def write(folder, text, label, metadata=None, **options):
    schema = pa.schema([("text", text.type), ("label", label.type)], metadata=metadata)
    parquet.write_table(pa.table([text, label], schema), folder / "table.parquet", **options)
    return folder / "table.parquet"


def refused(path):
    with pytest.raises(UserError) as error:
        list_sentences(str(path))
    return str(error.value)


@pytest.mark.parametrize(
    "text",
    [pa.array(TEXTS), pa.array(TEXTS, pa.large_string()), pa.array(TEXTS).dictionary_encode(),
     pa.array([text.encode() for text in TEXTS]), pa.array(TEXTS, pa.string_view())],
    ids=lambda array: str(array.type)[:12],
)  # fmt: skip
@pytest.mark.parametrize("compression", ["snappy", "zstd"])
def test_all_kinds_of_text(text, compression, tmp_path):
    path = write(tmp_path, text, pa.array(["a", "b", "a", "b"]), compression=compression, row_group_size=3)
    listing = list_sentences(str(path))
    assert (listing.items, listing.labels) == (TEXTS, ["a", "b", "a", "b"])
    assert listing.ids == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("label", "names"),
    [
        (pa.array([1, 0, 1, 2], pa.int8()), "1 0 1 2"),
        (pa.array([1.0, 0.0, 1.5, 2.0]), "1 0 1.5 2"),
        (pa.array([True, False, True, False]), "true false true false"),
        (pa.array(["x", "y", "x", "y"]).dictionary_encode(), "x y x y"),
        (pa.array(["x", "y", "x", "y"], pa.large_string()), "x y x y"),
    ],
)
def test_all_kinds_of_labels(label, names, tmp_path):
    assert list_sentences(str(write(tmp_path, pa.array(TEXTS), label))).labels == names.split()


def test_class_indices_of_hugging_face_have_names(tmp_path):
    features = {"text": {"_type": "Value"}, "label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path = write(tmp_path, pa.array(TEXTS), pa.array([1, 0, 1, 0]), metadata)
    assert list_sentences(str(path)).labels == ["pos", "neg", "pos", "neg"]
    path = write(tmp_path, pa.array(TEXTS), pa.array([1, 0, -1, 0]), metadata)  # -1: unlabelled
    assert "row 3: column 'label' is empty" in refused(path)
    path = write(tmp_path, pa.array(TEXTS), pa.array([1, 0, 1, 0]), {"huggingface": '{"info": [1'})
    assert list_sentences(str(path)).labels == ["1", "0", "1", "0"]


@pytest.mark.parametrize(
    ("text", "label", "says", "skipped"),
    [
        (pa.array([*TEXTS[:3], None]), pa.array([1, 0, 1, 0]), "row 4: column 'text' is empty", {"row 4"}),
        (pa.array(TEXTS), pa.array([1, None, 1, 0]), "row 2: column 'label' is empty", {"row 2"}),
        (pa.array(TEXTS), pa.array([1.0, 0.0, float("nan"), 0.0]), "row 3: column 'label' is empty", {"row 3"}),
        (pa.array(TEXTS), pa.array(["a", "b", "nan", None]), "row 3: column 'label' is 'nan', wh", {"row 3", "row 4"}),
        (pa.array([b"a", b"\xff", b"c", b"d"]), pa.array([1, 0, 1, 0]), "row 2: not text in UTF-8", {"row 2"}),
    ],
)
def test_bad_rows_are_named_and_can_be_skipped(text, label, says, skipped, tmp_path):
    path = write(tmp_path, text, label)
    assert says in refused(path)
    listing = list_sentences(str(path), unreadable="skip")
    assert listing.faults.keys() == skipped
    assert len(listing.items) == 4 - len(skipped)


def test_a_text_column_of_lists_is_refused(tmp_path):
    path = write(tmp_path, pa.array([["a"], ["b"]]), pa.array([1, 0]))
    assert "column 'text' is of type list<" in refused(path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"text,label\na,b\n", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_files_that_are_not_parquet_are_refused_in_one_line(content, tmp_path):
    (tmp_path / "table.parquet").write_bytes(content)
    assert "table.parquet: not a readable parquet file: " in refused(tmp_path / "table.parquet")


@pytest.mark.parametrize("place", [20, 0.3, 0.6, -30])
def test_damaged_files_are_refused_or_read(place, tmp_path):
    path = write(tmp_path, pa.array(TEXTS * 50), pa.array(["a", "b"] * 100), write_page_checksum=True)
    content = bytearray(path.read_bytes())
    start = int(place * len(content)) if isinstance(place, float) else place
    for i in range(start, start + 9):
        content[i] ^= 0x55
    path.write_bytes(content)
    try:
        assert list_sentences(str(path)).items == TEXTS * 50
    except UserError as error:
        assert str(error).isprintable()


def test_only_the_columns_that_are_needed_are_read(tmp_path):
    values = {"text": TEXTS, "label": ["a", "b"] * 2, "image": [{"bytes": b"x" * 10, "path": None}] * 4}
    parquet.write_table(pa.table(values), tmp_path / "table.parquet")
    assert list_sentences(str(tmp_path / "table.parquet")).items == TEXTS


ROWS = {"rows": (40_000_000, 1), "text": (1_000_000, 100_000)}  # number of rows, characters of each text
WRITE = """
import sys
import numpy as np, pyarrow as pa
from pyarrow import parquet
rows, characters = map(int, sys.argv[2:])
column = lambda value: pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), [value])
parquet.write_table(pa.table({"text": column("a" * characters), "label": column("b")}), sys.argv[1], compression="zstd")
"""
READ = """
import resource, sys
from rgjax.data.tables.reader import open_table
from rgjax.errors import UserError
from pathlib import Path
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    rows = list(open_table(Path(sys.argv[1])).rows("text", "label"))
    print("read", len(rows))
except UserError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.long
@pytest.mark.parametrize("bomb", ROWS)
def test_a_small_file_with_much_content_takes_little_memory(bomb, tmp_path):
    write_it = [sys.executable, "-c", WRITE, str(tmp_path / "a.parquet"), *map(str, ROWS[bomb])]
    subprocess.run(write_it, check=True, timeout=300)
    assert (tmp_path / "a.parquet").stat().st_size < 1_000_000
    run = [sys.executable, "-c", READ, str(tmp_path / "a.parquet")]
    done = subprocess.run(run, check=True, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2])
    message, megabytes = done.stdout.splitlines()
    assert "declares 40,000,000 rows" in message or "over 1,000 times as much text" in message
    assert int(megabytes) < 1000
