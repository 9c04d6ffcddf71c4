"""Text that is safe in Markdown and in file names."""

from rgjax.report.text import escape_markdown, escape_mathtext, file_name, shorten, unescape_markdown


def test_file_names_have_no_special_characters():
    names = {"rg random groups": "rg_random_groups", "../a$b/ü": "a_b", "v1.5-x+y": "v1.5-x+y", "": "_", "..": "_"}
    assert {name: file_name(name) for name in names} == names


def test_markdown_is_escaped_and_back():
    text = r"a_b *c* [d](e) `f` <g> # | ~ $ & \ {h}"
    assert escape_markdown("*a|\n b*") == r"\*a\| b\*"
    assert unescape_markdown(escape_markdown(text)) == text


def test_matplotlib_shows_dollar_signs_and_long_names_are_cut():
    assert escape_mathtext("$x$") == r"\$x\$"
    assert shorten("a\n b" + "c" * 40, 6) == "a bcc…"
