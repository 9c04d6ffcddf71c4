import codecs

import pytest

from rgjax.errors import UserError
from tests.support.data import read_table

ROWS = [{"text": "Sales fell, again", "label": "bad"}, {"text": 'She said "up"\nand left', "label": "good"}]
CSV = 'text,label\r\n"Sales fell, again",bad\r\n"She said ""up""\nand left",good\r\n'
JSONL = '{"text": "Sales fell, again", "label": "bad"}\n\n{"text": "She said \\"up\\"\\nand left", "label": "good"}'


def table(folder, content, name="table.csv"):
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
def test_all_formats_give_equal_rows(name, content, tmp_path):
    assert read_table(table(tmp_path, content, name), ["text", "label"]) == ROWS


def test_json_numbers_keep_their_spelling_and_missing_keys_are_empty(tmp_path):
    content = '{"text": 1.50, "label": 3}\n{"text": "x", "label": true, "group": null}\n{"text": "y", "label": "z"}'
    rows = read_table(table(tmp_path, content, "a.jsonl"), ["text", "label"])
    assert [tuple(row.values()) for row in rows] == [("1.50", "3", ""), ("x", "true", ""), ("y", "z", "")]


def test_a_field_of_ten_megabytes(tmp_path):
    long = "word " * 2_000_000
    assert read_table(table(tmp_path, f"text\n{long}\n"), ["text"])[0]["text"] == long


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("text,class\na,b\n", "line 1: no column 'label'; columns: text, class"),
        ("", "line 1: no column 'text'; columns: none"),
        ("text,label\n", "no rows"),
        ("text,label\na,b\n\nc,d,e\n", "line 4: 3 fields, but the header has 2; put quotes around"),
        ('text,label\n"a\nb",c\n"d,e\n', "line 4: unexpected end of data; a field that begins with a quote"),
        ("text,label\na,b\nc, \n", "line 3: column 'label' is empty"),
        ("text,label,label\na,b,c\n", "line 1: columns with the same name 'label'; rename them"),
        ("text,label\nPörssi,b\n".encode("latin-1"), "line 2: not text in UTF-8; save it as UTF-8"),
        ("text,label\na,b\n".encode("utf-16-le"), "line 1: not text in UTF-8"),
    ],
)
def test_bad_tables_are_named_with_their_line(content, says, tmp_path):
    with pytest.raises(UserError) as error:
        read_table(table(tmp_path, content), ["text", "label"])
    assert f"{tmp_path / 'table.csv'}" in str(error.value)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"text": "a"}\n{"sentence": "b"}', "line 2: no column 'text'; columns: sentence"),
        ('{"text": "a"}\n{"text": ', "line 2: not JSON"),
        ("[" * 100_000, "line 1: not a JSON array (maximum recursion depth"),
        ('{"text": ' + "[" * 100_000, "line 1: not JSON"),
        ('["a"]', 'row 1: not a JSON object such as {"text": ...}'),
        ('[{"text": "a"}', "line 1: not one JSON array (Expecting ',' delimiter)"),
        ('[{"text": "a"}]\n[]', "line 2: not one JSON array (Extra data)"),
        ('{"text": ["a"]}', "line 1: 'text' must be text or a number"),
        ('{"text": null}', "line 1: column 'text' is empty"),
        ('{"text": "a"}\n{"text": "b", "text": "c"}', "line 2: not JSON (the key 'text' occurs twice)"),
        ('{"text": {"0": "a", "1": "b"}}', "pandas writes a row per object by to_json(orient='records', lines=True)"),
        ('{"text": "a"}\n{"text": "\\ud83d"}', "line 2: not text: it has a NUL or half of a surrogate pair"),
        ('{"text": "a", "label": "x\\u0000"}', "line 1: not text: it has a NUL"),
        ("\n\n", "no rows"),
    ],
)
def test_bad_json_lines_are_named_with_their_line(content, says, tmp_path):
    with pytest.raises(UserError) as error:
        read_table(table(tmp_path, content, "table.jsonl"), ["text"])
    assert says in str(error.value)


def test_files_that_are_not_tables_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"must end in \.csv, \.tsv, \.jsonl"):
        read_table(tmp_path / "table.xlsx", ["text"])
    with pytest.raises(UserError, match=r"table\.csv: No such file"):
        read_table(tmp_path / "table.csv", ["text"])
