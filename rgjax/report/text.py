"""Text made safe for Markdown, file names and figures, and read back."""

import re
from collections.abc import Iterable, Sequence

_MARKUP = r"[\\`*_{}\[\]<>#|~$&]"  # characters that Markdown may read as markup


def escape_markdown(text: str) -> str:
    """The text on one line, with a backslash before each markup character."""
    return re.sub(f"({_MARKUP})", r"\\\1", " ".join(text.split()))


def unescape_markdown(text: str) -> str:
    return re.sub(rf"\\({_MARKUP})", r"\1", text)


def markdown_table(header: Sequence[str], lines: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """A table whose first `text_columns` columns are aligned left, the rest right."""
    ruler = ["---"] * text_columns + ["--:"] * (len(header) - text_columns)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ruler, *lines))


def file_name(text: str) -> str:
    """The text with only letters, digits and `_ . + -` left, safe in file names."""
    return re.sub(r"[^\w.+-]+", "_", text, flags=re.ASCII).strip("._") or "_"


def escape_mathtext(text: object) -> str:
    """User text for Matplotlib, in which a dollar sign starts no formula."""
    return str(text).replace("$", r"\$")


def shorten(text: object, length: int = 28) -> str:
    """One line of at most `length` characters, for Matplotlib."""
    line = " ".join(str(text).split())
    return escape_mathtext(line if len(line) <= length else line[: length - 1] + "…")
