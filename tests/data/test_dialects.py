"""The dialects of .csv and .tsv: the right one is taken, or the row that is in doubt is named."""

import csv
import io
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgjax.data.tables.reader import open_table

BODY = [(f"the team won match {i} with a fine goal", "sport") for i in range(12)]
BODY += [(f"shares of firm {i} fell after weak sales", "money") for i in range(8)]


def read(folder, content, name="table.csv"):
    """The rows (text, label), the faults by line, and the notes as lines."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    table = open_table(path)
    rows = list(table.rows("text", "label"))
    good = [(row.values["text"], row.values["label"]) for row in rows if not row.fault]
    return good, {row.number: row.fault for row in rows if row.fault}, [str(note) for note in table.notes]


def lines(rows, delimiter=",", end="\n"):
    return end.join(delimiter.join(row) for row in [("text", "label"), *rows]) + end


@pytest.mark.parametrize(("first", "last"), [(3, 9), (0, 1), (5, 15), (2, 2)])
def test_a_tsv_file_has_no_quoting(first, last, tmp_path):
    rows = list(BODY)
    rows[first] = (f'"{rows[first][0]}', rows[first][1])
    rows[last] = (f'{rows[last][0]}"', rows[last][1])
    good, faults, notes = read(tmp_path, lines(rows, "\t"), "a.tsv")
    if first == last:  # a whole field in quotes
        rows[first] = BODY[first]
    assert (good, faults) == (rows, {})
    assert [f"a.tsv, line {first + 2}" in note for note in notes] == ([] if first == last else [True])


@pytest.mark.parametrize("special", ['She said "up", and left', "two\nlines", "a\ttab", '"quoted"', 'a\n"b"\n\nc'])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize(("name", "delimiter"), [("a.tsv", "\t"), ("a.csv", ","), ("a.csv", ";"), ("a.csv", "|")])
def test_what_the_csv_module_and_pandas_write_is_read(special, quoting, name, delimiter, tmp_path):
    rows = [*BODY, (special, "money"), (f"{special} again", "sport")]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter, quoting=quoting).writerows([("text", "label"), *rows])
    assert read(tmp_path, buffer.getvalue(), name) == (rows, {}, [])


@pytest.mark.parametrize("ends", [(2, 6), (0, 18), (4, 5)])
@pytest.mark.parametrize("swap", [False, True], ids=["label last", "label first"])
@pytest.mark.parametrize("begin", ['"', '"Well, '])
def test_a_quoted_field_that_holds_rows_is_named_by_its_first_line(ends, swap, begin, tmp_path):
    rows = list(BODY)
    first, last = ends
    rows[first] = (begin + rows[first][0], rows[first][1])
    rows[last] = (rows[last][0] + '"', rows[last][1])
    content = lines(rows)
    if swap:
        content = "".join(",".join((label, text)) + "\n" for text, label in [("text", "label"), *rows])
    good, faults, _ = read(tmp_path, content)
    assert min(faults) == first + 2
    assert "a field that begins with a quote must end with one" in faults[first + 2]
    assert set(faults) <= {first + 2, last + 2}
    assert [row for row in good if row not in rows] == []
    assert len(good) + len(faults) == len(rows)


@pytest.mark.parametrize("bad", ['"Great movie, loved it', '"so" they said', 'a "b" c"'])
def test_reading_goes_on_after_an_unbalanced_quote(bad, tmp_path):
    good, faults, _ = read(tmp_path, lines([*BODY[:5], (bad, "sport"), *BODY[5:]]))
    assert list(faults) in ([7], [])
    assert [row for row in good if row in BODY] == BODY


def test_genuine_texts_of_several_lines_with_commas_are_read(tmp_path):
    rows = [(f"Well, {text}\nsecond line, with comma\n\nand more", label) for text, label in BODY]
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([("text", "label"), *rows])
    assert read(tmp_path, buffer.getvalue()) == (rows, {}, [])


def test_without_labels_the_form_of_another_column_tells_rows(tmp_path):
    (tmp_path / "a.csv").write_text('id,text\n1,fine\n2,"great movie\n3,so so\n4,bad"\n5,"two\nlines, yes"\n')
    rows = list(open_table(tmp_path / "a.csv").rows("text"))
    assert [(row.number, bool(row.fault)) for row in rows] == [(2, 0), (3, 1), (4, 0), (5, 1), (6, 0)]
    assert rows[-1].values["text"] == "two\nlines, yes"


def test_quotes_that_are_escaped_by_backslashes(tmp_path):
    rows = [*BODY, ('She said "up", and left', "sport"), (r"C:\new", "money")]
    content = lines([f'"{text}"'.replace('e said "up"', 'e said \\"up\\"'), label] for text, label in rows)
    assert read(tmp_path, content) == (rows, {}, ['1 table read with \\" as a quote inside a quoted field: table.csv'])


def test_spaces_before_quoted_fields(tmp_path):
    rows = [*BODY, ("one, or two", "sport"), ("three, four", "money")]
    content = "text, label\n" + "".join(f'"{text}", "{label}"\n' for text, label in rows)
    assert read(tmp_path, content) == (
        rows,
        {},
        ["1 table with spaces between a separator and a quoted field, read without them: table.csv"],
    )
    quoting = [*BODY, (' "so" he said', "sport")]
    content = "label,text\n" + "".join(f"{label},{text}\n" for text, label in quoting)
    assert read(tmp_path, content)[0][-1] == (' "so" he said', "sport")


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_all_ends_of_lines(end, name, tmp_path):
    content = lines(BODY, "\t" if name == "a.tsv" else ",", end)
    if name == "a.jsonl":
        content = end.join(f'{{"text": "{text}", "label": "{label}"}}' for text, label in BODY)
    assert read(tmp_path, content, name) == (BODY, {}, [])


@pytest.mark.parametrize(
    "change",
    [
        lambda content: "sep=,\n" + content,
        lambda content: content.replace("text,label", " text , Label "),
        lambda content: content.replace("\n", ",\n"),
        lambda content: content.replace("text,label", "text,label,"),
        lambda content: content.replace(",sport\n", ",sport,,\n"),
        lambda content: "\n \n" + content + "\n\n",
        lambda content: "".join(f"{i or ''},{line}\n" for i, line in enumerate(content.splitlines())),
        lambda content: content.replace("sport\n", "sport\n\n"),
    ],
    ids=["sep", "header", "trailing", "trailing header", "trailing rows", "blank", "index", "blank lines"],
)
def test_variants_of_a_csv_file(change, tmp_path):
    assert read(tmp_path, change(lines(BODY))) == (BODY, {}, [])


def test_comments_and_repeated_headers_are_noted(tmp_path):
    content = "# exported, today\n#\n" + lines(BODY) + lines(BODY[:2])
    good, faults, notes = read(tmp_path, content)
    assert (good, faults) == (BODY + BODY[:2], {})
    assert notes == [
        "2 lines skipped, a comment before the header of a table: table.csv, line 1, table.csv, line 2",
        f"1 row skipped, equal to the header of the table: table.csv, line {len(BODY) + 4}",
    ]
    assert read(tmp_path, "#text,text,label\na,b,c\n")[0] == [("b", "c")]  # a header, not a comment


def test_ragged_and_undecodable_rows_are_named_and_the_others_read(tmp_path):
    content = lines([*BODY[:3], ("3,5 stars", "sport"), ("short",), ("P\xf6rssi", "money"), *BODY[3:]])
    good, faults, _ = read(tmp_path, content.encode("latin-1"))
    assert good == BODY
    assert {line: fault[:28] for line, fault in faults.items()} == {
        5: "3 fields, but the header has",
        6: "1 fields, but the header has",
        7: "not text in UTF-8; save it a",
    }


def test_a_decimal_comma_between_semicolons(tmp_path):
    good, faults, _ = read(tmp_path, "score;text;label\n3,5;good, really;pos\n1,2;bad;neg\n")
    assert (good, faults) == ([("good, really", "pos"), ("bad", "neg")], {})


@pytest.mark.parametrize("line", ['a","\n', '"a,b\n', '"a""\n', 'x"y,"z\n', '"\n', 'a,"b\n', '""a\n', '",",\n'])
def test_any_number_of_bad_quotes_takes_linear_time(line, tmp_path):
    begin = time.monotonic()
    content = "text,label\n" + line * 10_000
    read(tmp_path, content)
    read(tmp_path, content.replace(",", "\t"), "a.tsv")
    assert time.monotonic() - begin < 5


ALPHABET = st.sampled_from(['"', ",", "\n", "a", "b", " ", "\t", "\\"])


@given(cells=st.lists(st.tuples(st.text(ALPHABET, max_size=6), st.sampled_from(["x", "y"])), min_size=1, max_size=8))
def test_rows_of_any_text_are_read_or_refused(cells, tmp_path_factory):
    """A table from the csv module comes back unchanged, or a row that looks like several is named."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([("text", "label"), *cells])
    good, faults, _ = read(tmp_path_factory.mktemp("a"), buffer.getvalue())
    expected = [row for row in cells if row[0].strip() and row != ("text", "label")]
    assert good == expected or faults


def test_random_literal_quotes_in_tsv_lose_no_row(tmp_path):
    rng = random.Random(0)
    for _ in range(30):
        rows = [("".join([rng.choice(['"', "", ""]), text, rng.choice(['"', "", ""])]), label) for text, label in BODY]
        good, faults, _ = read(tmp_path, lines(rows, "\t"), "a.tsv")
        assert len(good) == len(rows) and faults == {}
        assert [text.strip('"') for text, _ in good] == [text for text, _ in BODY]
