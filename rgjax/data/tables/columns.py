"""The roles of a table's columns, which may have other names."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from rgjax.data.pictures.decode import SUFFIXES
from rgjax.data.tables.paths import find_file
from rgjax.errors import UserError, first_few, unknown

ROLES = ("text", "path", "label", "group", "split", "id", "subclass")
CONTENT = ("text", "path")  # a table has one of these roles

# Names that people and public data sets give to the columns, the likeliest first.
_USUAL = {
    "text": "sentence content review comment tweet message body document utterance question description abstract sms "
    "headline news article post title premise phrase input",
    "path": "file_name filename image image_path img_path filepath file_path file img image_name image_file name",
    "label": "labels target class category sentiment y diagnosis dx class_name classname class_id label_text topic "
    "emotion intent polarity gold rating stars species tag finding output",
}


@dataclass(frozen=True)
class Columns:
    """The user's mapping from roles to columns of a table.

    Attributes:
        names: role -> column; a role that is absent here is the column of its own name.
        flag: the option that sets the mapping, for messages.
        optional: a table may lack the columns of `names`, and then has those of the roles' own names.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    flag: str = "--config.data.columns"
    optional: bool = False

    @classmethod
    def parse(cls, spec: str, flag: str = flag, *, optional: bool = False) -> "Columns":
        """Parse "ROLE:COLUMN,ROLE:COLUMN". Raises UserError."""
        names: dict[str, str] = {}
        # A comma separates pairs if a role follows it, so that columns may have commas in their names.
        for pair in re.split(r",(?=\s*\w+\s*:)", spec) if spec.strip() else []:
            role, colon, column = (part.strip() for part in pair.partition(":"))
            if not colon or not column:
                raise UserError(f"{flag}={spec}: '{pair.strip()}' is not ROLE:COLUMN, e.g. text:sentence,label:class")
            if role not in ROLES:
                error = unknown("role", role, ROLES)
                raise UserError(f"{flag}={spec}: {error}")
            if role in names:
                raise UserError(f"{flag}={spec}: the role {role} has two columns, '{names[role]}' and '{column}'")
            names[role] = column
        if any(names.get(role) == names.get("label") for role in CONTENT if role in names):
            raise UserError(f"{flag}={spec}: a column cannot be both the content and the label")
        return cls(names, flag, optional)

    @property
    def spec(self) -> str:
        """The mapping as `parse` reads it."""
        return ",".join(f"{role}:{column}" for role, column in self.names.items())

    def resolve(self, table: Sequence[str]) -> dict[str, str]:
        """The roles that a table with these columns has, each with its column.

        Upper and lower case count only if a name would else be ambiguous. Raises UserError if a mapped column is
        missing.
        """
        roles = {}
        for role in ROLES:
            column = _match(self.names[role], table) if role in self.names else None
            if role in self.names and not column and not self.optional:
                columns = first_few(table, limit=20) or "none"
                raise UserError(f"no column '{self.names[role]}', which {self.flag} names; columns: {columns}")
            column = column or _match(role, set(table) - set(self.names.values()))
            if column:
                roles[role] = column
        return roles

    def proposal(
        self, table: Sequence[str], missing: Sequence[str], sample: Sequence[Mapping[str, str]], folder: Path
    ) -> str:
        """The option that maps the missing roles; "" if no columns seem to be meant.

        Args:
            table: the names of the columns.
            missing: the roles without a column.
            sample: some rows, column -> value.
            folder: where the table lies.
        """
        names = dict(self.resolve(table))
        for role in missing:
            taken = {column for other, column in names.items() if other != "id"}  # an id may be the name of an image
            free = [column for column in table if column and column not in taken]
            column = _usual(role, free) or _by_content(role, free, sample, folder)
            if not column:
                return ""
            names[role] = column
        mapped = {role: column for role, column in names.items() if column.casefold() != role}
        return shlex.quote(f"{self.flag}={replace(self, names=mapped).spec}")


def content_role(table: Sequence[str], sample: Sequence[Mapping[str, str]], folder: Path) -> str:
    """Whether a table without the columns text and path seems to hold texts or paths.

    Args:
        table: the names of its columns.
        sample: some rows, column -> value.
        folder: where it lies.
    """
    if _usual("text", table):
        return "text"
    return "path" if _usual("path", table) or _by_content("path", table, sample, folder) else "text"


def _match(name: str, table: Iterable[str]) -> str | None:
    """The column of this name, or the only one that differs in case alone."""
    table = list(table)
    near = [column for column in table if column.casefold() == name.casefold()]
    return name if name in table else near[0] if len(near) == 1 else None


def _usual(role: str, table: Iterable[str]) -> str:
    by_name = {re.sub(r"[\s-]", "_", column.casefold()): column for column in table}
    return next((by_name[name] for name in _USUAL.get(role, "").split() if name in by_name), "")


def _by_content(role: str, table: Sequence[str], sample: Sequence[Mapping[str, str]], folder: Path) -> str:
    """The column whose values look like a role's: image files, long texts, few labels."""
    values = {column: [row[column] for row in sample if row.get(column)] for column in table}
    values = {column: cells for column, cells in values.items() if cells and column not in cells}
    if role == "path":
        return next((c for c, cells in values.items() if all(_is_image(cell, folder) for cell in cells[:3])), "")
    if role == "text":
        return max(values, key=lambda column: sum(map(len, values[column])) / len(values[column]), default="")
    repeated = {c: len(set(cells)) for c, cells in values.items() if 1 < len(set(cells)) < len(cells)}
    return min(repeated, key=lambda column: repeated[column], default="")


def _is_image(name: str, folder: Path) -> bool:
    """Whether a cell names an image by its suffix or as a file that is there."""
    try:
        return PurePath(name).suffix.lower() in SUFFIXES or find_file(str(folder), name.strip()) is not None
    except UserError:  # several files
        return True
