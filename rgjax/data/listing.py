"""A listing: the examples of custom data before their content is read."""

import contextlib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from rgjax.data.dataset import Source
from rgjax.data.notes import Note, note
from rgjax.data.pictures.decode import Original
from rgjax.errors import first_few, plural

Item = TypeVar("Item", covariant=True)  # an image or a sentence

# Names of splits, in folders and in tables.
SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Listing(Generic[Item]):
    """The examples in a folder or table, without their content.

    Attributes:
        where: the folder or table.
        items: images or sentences.
        ids: a unique name for each example.
        labels: the class name of each example.
        group_ids: a group for each example, or None.
        splits: "train", "val" or "test" for each example, or None if the user defined no split.
        notes: what was skipped or changed.
        faults: the rows that were skipped: place -> reason.
        subclasses: a subclass for each example, "" where it has none, or None if no example has one.
    """

    where: Path
    items: Sequence[Item]
    ids: list[str]
    labels: list[str]
    group_ids: list[str] | None
    splits: list[str] | None
    notes: tuple[Note, ...] = ()
    faults: Mapping[str, str] = field(default_factory=dict)
    subclasses: list[str] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.labels)))

    def source(self, inputs: np.ndarray, fingerprint: str, pictures: Sequence[Original] | None = None) -> Source:
        """The examples with their content `inputs` [N, ...]."""
        group_ids = self.ids if self.group_ids is None else self.group_ids
        splits = None if self.splits is None else np.array(self.splits)
        return Source(
            inputs=inputs,
            labels=_to_indices(self.labels, self.class_names),
            class_names=self.class_names,
            group_ids=_to_indices(group_ids, dict.fromkeys(group_ids)),
            ids=np.array(self.ids),
            official_test=None if splits is None else splits == "test",
            official_val=None if splits is None or "val" not in splits else splits == "val",
            fingerprint=fingerprint,
            notes=self.notes,
            subclasses=None if self.subclasses is None else np.array(self.subclasses),
            pictures=pictures,
        )

    def select(self, mask: np.ndarray, *notes: Note) -> "Listing[Item]":
        """The examples where `mask` [N] is true; `notes` describe the rest."""

        def selected(values: Sequence) -> list:
            return [value for value, keep in zip(values, mask, strict=True) if keep]

        return replace(
            self,
            items=selected(self.items),
            ids=selected(self.ids),
            labels=selected(self.labels),
            group_ids=self.group_ids and selected(self.group_ids),
            splits=self.splits and selected(self.splits),
            subclasses=self.subclasses and selected(self.subclasses),
            notes=(*self.notes, *notes),
        )


# Names of classes

# What programs write for a missing value, and what people do, but also call a class.
_MISSING = {"nan", "null", "<na>", "nat", "#n/a", "#na", "-nan"}
_MAYBE_MISSING = {"none", "na", "n/a", "n.a.", "-", "--", "?", "missing", "undefined"}


def is_missing(label: str) -> bool:
    """Whether a label is a word that programs write for a missing value."""
    return label.strip().lower() in _MISSING


def class_notes(labels: Sequence[str], places: Sequence[str]) -> tuple[Note, ...]:
    """Notes on names of classes that may not be meant.

    Args:
        labels: the class of each example as it is written, before `normal_label`.
        places: where each stands, such as its line or file.
    """
    written: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for label, place in zip(labels, places, strict=True):
        written[normal_label(label)][label].append(place)

    def described(name: str) -> str:
        where = [place for form in written[name].values() for place in form]
        return f"'{name}' ({counted(where, 'example')}: {first_few(where, limit=3)})"

    # The most frequent form comes first.
    forms = {name: sorted(by_form.items(), key=lambda item: -len(item[1])) for name, by_form in written.items()}
    joined = [f"{form!a} in {first_few(where, limit=3)}" for several in forms.values() for form, where in several[1:]]
    alike = defaultdict(list)
    for name in sorted(written, key=lambda name: -sum(map(len, written[name].values()))):
        alike[_near_form(name)].append(name)
    near = [f"{described(name)} and '{names[0]}'" for names in alike.values() for name in names[1:]]
    doubtful = [described(name) for name in written if name.lower() in _MISSING | _MAYBE_MISSING]
    return (*note("joined_class", joined), *note("near_class", near), *note("null_class", doubtful))


def _near_form(name: str) -> str:
    """A name without case, spaces, Unicode forms and the spelling of its number."""
    name = unicodedata.normalize("NFKC", name).casefold()
    with contextlib.suppress(ValueError):
        return repr(float(name))
    return "".join(c for c in name if not c.isspace() and c not in "_-" and unicodedata.category(c) != "Cf")


@lru_cache(10_000)
def normal_label(name: str) -> str:
    """The class name in Unicode's NFC form, because file systems and editors differ."""
    return unicodedata.normalize("NFC", name.strip())


def normal_subclasses(names: Iterable[str]) -> list[str] | None:
    """The subclasses as classes are written, "" for a missing one; None if all are."""
    subclasses = ["" if is_missing(name) else normal_label(name) for name in names]
    return subclasses if any(subclasses) else None


def _to_indices(values: Sequence[str], names: Iterable[str]) -> np.ndarray:
    """The position int32 [N] of each value among the names."""
    index_of = {name: index for index, name in enumerate(names)}
    return np.array([index_of[value] for value in values], np.int32)


def counted(things: Iterable, noun: str) -> str:
    return plural(len(list(things)), noun)
