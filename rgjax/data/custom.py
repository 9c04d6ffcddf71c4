"""List the examples in a custom folder or table, before anything is decoded."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rgjax.data.folders import entries, files_below, images_of_folder, is_image_file
from rgjax.data.foreign import count_kinds
from rgjax.data.listing import (
    SPLIT_NAMES,
    Item,
    Listing,
    class_notes,
    counted,
    is_missing,
    normal_label,
    normal_subclasses,
)
from rgjax.data.notes import note
from rgjax.data.pictures.npz import is_npz
from rgjax.data.pictures.packed import Packed, images_of_npz
from rgjax.data.places import Place, locate
from rgjax.data.tables.columns import Columns
from rgjax.data.tables.paths import find_file
from rgjax.data.tables.reader import Row, Table, is_metadata, open_table
from rgjax.errors import UserError, first_few

_SKIP = "--config.data.unreadable=skip"


def list_images(name: str, columns: Columns | None = None, unreadable: str = "stop") -> Listing[Path | Packed]:
    """List the images of a folder or of tables.

    A folder holds CLASS/**, or train/CLASS/**, test/CLASS/** and optionally val/CLASS/**. A table has the columns path
    (relative to the table's folder), label and optionally group, split and subclass. Hidden files and folders below
    the class folders are ignored. Links are followed, but each folder is read once.

    Args:
        name: the folder or table, or a folder with tables.
        columns: the columns that are not named after their roles.
        unreadable: "stop" raises for rows that cannot be read and for missing files, "skip" skips such rows.

    Raises:
        UserError: if the data cannot be read.
    """
    place = locate(name)
    if not place.tables and columns and columns.names:
        raise UserError(f"{columns.flag}={columns.spec}: {place.where} has no table; leave the option out")
    if is_npz(place.where):
        return require_classes(images_of_npz(place.where))
    if not place.tables:
        return require_classes(images_of_folder(place.where))
    if (by_folder := _classes_beside_metadata(place, columns)) is not None:
        return by_folder
    listing = _read_tables(place, "path", columns, unreadable)
    folder = _root_of(place)
    images = [folder / item if isinstance(item, str) else item for item in listing.items]
    missing = [image for image in images if isinstance(image, Path) and not os.path.isfile(image)]
    if missing and unreadable == "stop":
        raise UserError(
            f"{place.where}: {len(missing)} of {len(images)} images do not exist: {first_few(missing)}; paths are "
            "relative to the table's folder"
        )
    return require_classes(_of_imagefolder(replace(listing, items=images), place, columns))


def _root_of(place: Place) -> Path:
    """The folder to which ids are relative: that of the tables, if it is one."""
    folders = {table.parent for table in place.tables}
    return folders.pop() if len(folders) == 1 else place.where


def _classes_beside_metadata(place: Place, columns: Columns | None) -> Listing[Path] | None:
    """The images in class folders, if the metadata beside them have no labels."""
    if not all(map(is_metadata, place.tables)) or any("label" in open_table(t, columns).roles for t in place.tables):
        return None
    try:
        return require_classes(images_of_folder(_root_of(place)))
    except UserError:
        return None


def _of_imagefolder(listing: Listing, place: Place, columns: Columns | None) -> Listing:
    """With the splits of its folders, and a note on images without a row."""
    if not all(map(is_metadata, place.tables)):
        return listing
    splits = [SPLIT_NAMES.get(Path(identity).parts[0].lower(), "") for identity in listing.ids]
    listed = {os.path.normpath(image) for image in listing.items}
    if listing.faults:  # these rows have a note of their own
        rows = ((table, row) for table in place.tables for row in open_table(table, columns).rows("path", "label"))
        listed |= {os.path.normpath(table.parent / row.values.get("path", "")) for table, row in rows if row.fault}
    files = {file for table in place.tables for file in files_below(table.parent)}.difference(place.tables)
    images = sorted(file for file in files if is_image_file(str(file)))
    unlisted = [file.relative_to(_root_of(place)) for file in images if os.path.normpath(file) not in listed]
    skipped = [str(file) for file in files.difference(images)]
    return replace(
        listing,
        splits=splits if not listing.splits and all(splits) and {"train", "test"} <= set(splits) else listing.splits,
        notes=(
            *listing.notes,
            *note("unlisted_image", unlisted),
            *note("other_kind", count_kinds(skipped), len(skipped)),
        ),
    )


def list_sentences(name: str, columns: Columns | None = None, unreadable: str = "stop") -> Listing[str]:
    """List the sentences of tables.

    A table has the columns text, label and optionally group, split, id and subclass. Without the column group, equal
    sentences form a group. The arguments are those of `list_images`. Raises UserError.
    """
    place = locate(name)
    if not place.tables:
        raise UserError(f"{place.where}: no table; sentences need a table with the columns text,label")
    listing = _read_tables(place, "text", columns, unreadable)
    return require_classes(
        replace(listing, group_ids=listing.group_ids or [normal_form(text) for text in listing.items])
    )


def normal_form(text: str) -> str:
    """The sentence in lower case without extra white space, to compare sentences."""
    return " ".join(text.casefold().split())


# Tables


@dataclass
class _Examples:
    """The examples of one table or more, row by row."""

    content: str  # the role of the items: "path" or "text"
    root: Path  # the folder to which the paths are relative in ids
    items: list[str | Packed] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    subclasses: list[str] = field(default_factory=list)
    near_paths: list[str] = field(default_factory=list)  # those spelled otherwise than their files
    faults: dict[str, str] = field(default_factory=dict)
    faulty_labels: set[str] = field(default_factory=set)


def _read_tables(place: Place, content: str, columns: Columns | None, unreadable: str) -> Listing:
    """The examples of the tables; `content` is the role of their paths or sentences."""
    examples, roles, notes = _Examples(content, _root_of(place)), set(), ()
    for file, split in zip(place.tables, place.splits or [""] * len(place.tables), strict=True):
        table = open_table(file, columns)
        _require(table, content, place)
        rows = list(table.rows(content, "label"))
        if not rows:
            raise UserError(f"{file}: no rows")
        faults = [row for row in rows if row.fault]
        if faults and (unreadable == "stop" or len(faults) == len(rows)):
            raise _refusal(table, faults, len(rows))
        name = os.path.relpath(file, examples.root) if len(place.tables) > 1 else ""
        _add(examples, table, rows, name=name, split=split)
        roles |= table.roles.keys()
        notes += table.notes
    _require_unique(place, examples)
    labels = [normal_label(label) for label in examples.labels]
    skipped = [f"{where} ({fault})" for where, fault in examples.faults.items()]
    if empty := sorted(examples.faulty_labels - {*labels, ""}):
        raise UserError(
            f"{place.where}: all rows of the class {first_few(empty)} cannot be read: {first_few(skipped)}; repair "
            "them, or remove the class"
        )
    notes += (
        *note("unreadable_row", skipped),
        *note("near_path", examples.near_paths),
        *class_notes(examples.labels, examples.places),
    )
    return Listing(
        place.where,
        examples.items,
        examples.ids,
        labels,
        examples.groups if "group" in roles else None,
        official_splits(place.where, examples.splits),
        notes,
        examples.faults,
        normal_subclasses(examples.subclasses),
    )


def _require(table: Table, content: str, place: Place) -> None:
    try:
        table.require(content, "label")
    except UserError as error:
        if table.file == place.tables[0]:
            raise
        # Test sets of competitions have no labels.
        raise UserError(f"{error}; or pass {place.tables[0]} alone, to draw the test set from it") from error


def _refusal(table: Table, faults: Sequence[Row], num_rows: int) -> UserError:
    """The error for rows that cannot be read: the first reason, all lines, ways out."""
    first = f"{table.place(faults[0].number)}: {faults[0].fault}"
    if len(faults) == num_rows > 1:
        return UserError(f"{first}; none of the {num_rows} rows can be read")
    lines = f"{table.unit}{'' if len(faults) == 1 else 's'} {first_few(row.number for row in faults)}"
    which = f"; {len(faults)} of {num_rows} rows cannot be read ({lines})" if len(faults) > 1 else ""
    return UserError(f"{first}{which}, or skip by {_SKIP}")


def _add(examples: _Examples, table: Table, rows: Sequence[Row], *, name: str, split: str) -> None:
    """Add the rows of a table.

    Args:
        examples: what the rows are added to.
        table: where they stand.
        rows: all of them; faulty ones are kept apart.
        name: the name of the table in ids and places, if there are several.
        split: the split that the table is, or "".
    """
    prefix, beside = (f"{os.path.splitext(name)[0]}/", f"{name}, ") if name else ("", "")
    for number, (line, values, fault) in enumerate(rows, start=1):
        where = f"{beside}{table.unit} {line}"
        if fault:
            examples.faults[where] = fault
            label = normal_label(values.get("label", ""))
            examples.faulty_labels |= set() if is_missing(label) else {label}
            continue
        identity = prefix + (values.get("id", "").strip() or str(number))
        item = values[examples.content]
        if table.embedded and examples.content == "path":
            item = Packed(table.file, table.embedded, line - 1)
        elif examples.content == "path":
            item = identity = _image(examples, table, line, item.strip())
        examples.items.append(item)
        examples.ids.append(identity)
        examples.places.append(where)
        examples.labels.append(values["label"])
        examples.groups.append(values.get("group", "").strip() or f"{prefix}row {number}")
        examples.subclasses.append(values.get("subclass", ""))
        examples.splits.append(_split(table, line, values.get("split", "").strip(), split))


def _image(examples: _Examples, table: Table, line: int, name: str) -> str:
    """The path of an image relative to the root; that of `name` if it is missing."""
    try:
        path = find_file(str(table.file.parent), name)
    except UserError as error:
        raise UserError(f"{table.place(line)}: {error}") from error
    if path and path != os.path.normpath(name):
        examples.near_paths.append(f"{name} = {path}")
    return os.path.normpath(os.path.relpath(table.file.parent, examples.root) / Path(path or name))


def _split(table: Table, line: int, name: str, split: str) -> str:
    """The split of a row by its column or by the table's name.

    Raises UserError if they contradict.
    """
    if not name:
        return split
    if name.lower() not in SPLIT_NAMES:
        raise UserError(f"{table.place(line)}: unknown split '{name}'; use train, val or test")
    if split and SPLIT_NAMES[name.lower()] != split:
        raise UserError(
            f"{table.place(line)}: the column '{table.roles['split']}' says '{name}', but the name of the table says "
            f"'{split}'; rename the table, or remove the column"
        )
    return SPLIT_NAMES[name.lower()]


def official_splits(where: Path, splits: list[str]) -> list[str] | None:
    """The split of each row; None if no row has one.

    Raises UserError if some rows have none, or if train or test is missing.
    """
    if not any(splits):
        return None
    if missing := {"train", "test"} - set(splits):
        raise UserError(
            f"{where}: no row has the split '{missing.pop()}'; add rows for it (only val is optional), or remove "
            "the column to split at random"
        )
    if "" in splits:
        raise UserError(f"{where}: {splits.count('')} rows have no split; use train, val or test")
    return splits


def _require_unique(place: Place, examples: _Examples) -> None:
    first: dict[str, str] = {}
    repeated = [
        f"{first[identity]} and {where} ({identity})"
        for identity, where in zip(examples.ids, examples.places, strict=True)
        if first.setdefault(identity, where) != where
    ]
    if repeated:
        column = "path" if examples.content == "path" else "id"
        count = counted(repeated, f"repeated {column}")
        raise UserError(f"{place.where}: {count}: {first_few(repeated)}; keep one of each")


def require_classes(listing: Listing[Item]) -> Listing[Item]:
    names = list(listing.class_names)
    if len(names) == 1:
        hint = ""
        if (listing.where / names[0]).is_dir() and len(folders := entries(listing.where / names[0])[0]) > 1:
            hint = f"; if the {len(folders)} folders in it are the classes, pass {listing.where / names[0]}"
        raise UserError(f"{listing.where}: only one class, '{names[0]}'; at least two are needed{hint}")
    return listing
