"""Notes on data: what was skipped, cut, rescaled, merged or doubted in reading.

A reader that changes or omits anything adds a note. Commands show the notes of a data set, and a run keeps them in
provenance.json.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Integer

from rgjax.errors import first_few, one_line, plural

_FEW = 5  # names that a note keeps


@dataclass(frozen=True)
class Kind:
    """A kind of note.

    Attributes:
        noun: what is counted, in the singular.
        fact: what happened to it; follows the count and the noun.
        fix: how to avoid or to answer it; "" if there is nothing to do.
        skips: the counted things are absent from the data.
    """

    noun: str
    fact: str
    fix: str = ""
    skips: bool = False


KINDS = {
    "stray_file": Kind("file", "skipped, not in a class folder", skips=True),
    "other_file": Kind("file", "skipped, in class folders, without an image suffix", skips=True),
    "other_kind": Kind("file", "skipped, of kinds that are not read", skips=True),
    "hidden_file": Kind("hidden file", "skipped", skips=True),
    "hidden_folder": Kind("hidden folder", "skipped", skips=True),
    "system_folder": Kind("folder", "skipped, made by a program or system", skips=True),
    "hidden_class": Kind("hidden folder", "taken as a class", "move it elsewhere if it is none"),
    "no_suffix": Kind("file", "without a suffix, read as an image"),
    "unreadable_image": Kind("image", "skipped, cannot be read", "python -m rgjax.data.inspect lists all", skips=True),
    "rescaled_image": Kind(
        "image", "rescaled, as their values have no fixed range", "rgjax/data/README.md has the rule"
    ),
    "first_frame": Kind("image", "with several frames or pages, of which the first is read"),
    "blank_image": Kind("image", "nearly of a single color", "look at them"),
    "mask": Kind("mask", "passed over, beside the photographs", skips=True),
    "equal_file": Kind("file", "passed over, equal to another file of the same image", skips=True),
    "unlisted_image": Kind("image", "left out, not in the table of labels", skips=True),
    "manipulated_image": Kind("image", "left out, no plain photograph", skips=True),
    "foreign_diagnosis": Kind("image", "left out, its diagnosis is no class of HAM10000", skips=True),
    "no_lesion": Kind(
        "image",
        "without a lesion_id, so images of one lesion may be in several splits",
        "add the challenge's ISIC2018_Task3_Training_LesionGroupings.csv or ISIC_2019_Training_Metadata.csv",
    ),
    "fewer_groups": Kind(
        "group",
        "fewer than config.regroup.rule asks for, as a class has at most 1000, each of at least",
        "config.regroup.min_size=1 allows all sizes",
    ),
    "single_example": Kind(
        "group", "of a single example", "config.regroup.min_size=2 or more merges them into the nearest"
    ),
    "single_subclass": Kind("subclass", "with a single training example", "join it with another in the data"),
    "outside_folds": Kind(
        "example", "of the official test set, in no fold", "config.data.split=stratified or grouped folds all examples"
    ),
    "cut_text": Kind("text", "cut at", "--config.data.max_length sets the length"),
    "unreadable_row": Kind("row", "skipped, cannot be read", "python -m rgjax.data.inspect lists all", skips=True),
    "comment_line": Kind("line", "skipped, a comment before the header of a table", skips=True),
    "repeated_header": Kind("row", "skipped, equal to the header of the table", skips=True),
    "literal_quote": Kind("row", "with a field that begins with a quote, taken as text: .tsv tables have no quoting"),
    "spaced_quotes": Kind("table", "with spaces between a separator and a quoted field, read without them"),
    "backslash_quotes": Kind("table", 'read with \\" as a quote inside a quoted field'),
    "near_path": Kind("path", "spelled otherwise than the file that is read"),
    "joined_class": Kind("class name", "in another spelling of spaces or Unicode, joined with the class"),
    "near_class": Kind("class name", "nearly equal to another, yet kept apart", "spell them alike if they are one"),
    "null_class": Kind("class name", "like a missing value, yet kept", "remove these examples if they have no class"),
}


@dataclass(frozen=True)
class Note:
    """How many things of a kind there are, with the names of the first few.

    `str()` is the note as one line. `detail` completes the fact.
    """

    kind: str
    count: int
    names: tuple[str, ...]
    detail: str = ""

    def __str__(self) -> str:
        kind = KINDS[self.kind]
        more = ("...",) if self.count > len(self.names) > 0 else ()
        names = f": {', '.join((*self.names, *more))}" if self.names else ""
        fix = f"; {kind.fix}" if kind.fix else ""
        fact = f"{kind.fact} {self.detail}".strip()
        return one_line(f"{plural(self.count, kind.noun)} {fact}{names}{fix}")

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "count": self.count, "names": list(self.names), "text": str(self)}


def note(kind: str, names: Iterable[object], count: int | None = None, detail: str = "") -> tuple[Note, ...]:
    """The note on things of a kind; nothing if there are none.

    Args:
        kind: a key of `KINDS`.
        names: the names of the things.
        count: how many they are, if not all have a name.
        detail: completes the kind's fact, such as with a number.
    """
    names = [str(name) for name in names]
    count = len(names) if count is None else count
    return (Note(kind, count, tuple(names[:_FEW]), detail),) if count else ()


def notes_on(remarks: Iterable[tuple[object, Collection[str]]]) -> tuple[Note, ...]:
    """The notes on things, given as their names and the kinds that apply to each."""
    names_of = defaultdict(list)
    for name, kinds in remarks:
        for kind in kinds:
            names_of[kind].append(name)
    return tuple(one for kind in KINDS for one in note(kind, names_of.get(kind, ())))


def recorded_notes(provenance: dict[str, Any]) -> list[str]:
    """The notes in the content of a provenance.json, a line each."""
    notes = provenance.get("notes")  # absent in runs of older versions
    notes = notes if isinstance(notes, list) else []
    return [str(one["text"]) for one in notes if isinstance(one, dict) and "text" in one]


def fewer_groups(
    class_names: Iterable[str], asked: Integer[np.ndarray, " C"], made: Integer[np.ndarray, " C"], min_size: int
) -> tuple[Note, ...]:
    """The note on the classes with fewer pseudo-classes than the rule asks for.

    Args:
        class_names: of all classes.
        asked: pseudo-classes of each class by the rule.
        made: its pseudo-classes.
        min_size: the least size of a pseudo-class.
    """
    classes = zip(class_names, asked, made, strict=True)
    names = [f"{name} {k} instead of {n}" for name, n, k in classes if k < n]
    return note("fewer_groups", (), int((asked - made).sum()), f"{min_size} examples: {first_few(names)}")
