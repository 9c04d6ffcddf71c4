import codecs

import pytest

from rgjax.data.tables import read_table
from rgjax.errors import UserError

ROWS = [{"text": "Sales fell, again", "label": "bad"}, {"text": 'She said "up"\nand left', "label": "good"}]
CSV = 'text,label\r\n"Sales fell, again",bad\r\n"She said ""up""\nand left",good\r\n'
JSONL = '{"text": "Sales fell, again", "label": "bad"}\n\n{"text": "She said \\"up\\"\\nand left", "label": "good"}'


def table(folder, content, name="own.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV.encode()),
        ("a.CSV", codecs.BOM_UTF8 + CSV.encode()),
        ("a.csv", CSV.encode("utf-16")),
        ("a.csv", CSV.replace("text,label", "text;label").replace('",', '";').encode()),
        ("a.tsv", CSV.replace("text,label", "text\tlabel").replace('",', '"\t').encode()),
        ("a.jsonl", JSONL.encode()),
        ("a.jsonl", codecs.BOM_UTF8 + JSONL.replace("\n", "\r\n").encode()),
    ],
)  # fmt: skip
def test_the_same_rows_in_every_form(name, content, tmp_path):
    assert read_table(table(tmp_path, content, name), ["text", "label"]) == ROWS


def test_json_numbers_are_as_written_and_what_is_lacking_is_empty(tmp_path):
    content = '{"text": 1.50, "label": 3}\n{"text": "x", "label": true, "group": null}\n{"text": "y", "label": "z"}'
    rows = read_table(table(tmp_path, content, "a.jsonl"), ["text", "label"])
    assert [tuple(row.values()) for row in rows] == [("1.50", "3", ""), ("x", "true", ""), ("y", "z", "")]


def test_a_field_of_ten_megabytes(tmp_path):
    long = "word " * 2_000_000
    assert read_table(table(tmp_path, f"text\n{long}\n"), ["text"])[0]["text"] == long


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("text,class\na,b\n", "line 1: there is no column 'label'; columns: text, class"),
        ("", "line 1: there is no column 'text'; columns: none"),
        ("text,label\n", "has no rows"),
        ("text,label\na,b\n\nc,d,e\n", "line 4: 3 fields, where the header has 2; put quotes around"),
        ('text,label\n"a\nb",c\n"d,e\n', "line 4: unexpected end of data; a field that begins with a quote"),
        ("text,label\na,b\nc, \n", "line 3: column 'label' is empty"),
        ("text,label,label\na,b,c\n", "line 1: columns have the same name ('label'): rename them"),
        ("text,label\nPörssi,b\n".encode("latin-1"), "line 2: this is not text in UTF-8; save it as UTF-8"),
        ("text,label\na,b\n".encode("utf-16-le"), "line 1: this is not text in UTF-8"),
    ],
)
def test_bad_tables_are_told_with_their_line(content, says, tmp_path):
    with pytest.raises(UserError) as error:
        read_table(table(tmp_path, content), ["text", "label"])
    assert f"{tmp_path / 'own.csv'}" in str(error.value)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"text": "a"}\n{"sentence": "b"}', "line 2: there is no column 'text'; columns: sentence"),
        ('{"text": "a"}\n{"text": ', "line 2: this is not JSON"),
        ("[" * 100_000, "line 1: this is not JSON"),
        ('["a"]', 'line 1: this is no JSON object, such as {"text": ...}'),
        ('{"text": ["a"]}', "line 1: 'text' must be a text or a number"),
        ('{"text": null}', "line 1: column 'text' is empty"),
        ('{"text": "a"}\n{"text": "\\ud83d"}', "line 2: this is not text: it has a NUL, or half of a surrogate pair"),
        ('{"text": "a", "label": "x\\u0000"}', "line 1: this is not text: it has a NUL"),
        ("\n\n", "has no rows"),
    ],
)
def test_bad_json_lines_are_told_with_their_line(content, says, tmp_path):
    with pytest.raises(UserError) as error:
        read_table(table(tmp_path, content, "own.jsonl"), ["text"])
    assert says in str(error.value)


def test_files_that_are_no_tables_are_told(tmp_path):
    with pytest.raises(UserError, match=r"must end in \.csv, \.tsv, \.jsonl"):
        read_table(tmp_path / "own.xlsx", ["text"])
    with pytest.raises(UserError, match=r"own\.csv cannot be read: No such file"):
        read_table(tmp_path / "own.csv", ["text"])
