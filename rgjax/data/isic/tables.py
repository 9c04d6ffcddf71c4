"""Read tables of labels: HAM10000, the ISIC challenges and the ISIC archive.

Labels have one of three forms: the deposit's metadata (image_id, dx and lesion_id), a challenge's ground truth (image
and a column of 0 and 1 for each class) or the archive's metadata (isic_id and diagnoses). A table beside a challenge's
ground truth has its lesions (image and lesion_id).
"""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rgjax.data.notes import Note, note
from rgjax.errors import UserError, first_few

COUNTS = {"nv": 6705, "mel": 1113, "bkl": 1099, "bcc": 514, "akiec": 327, "vasc": 142, "df": 115}  # published
CLASSES = tuple(COUNTS)
_MORE_CLASSES = ("ak", "scc", "unk")  # of the challenge of 2019, which has ak and scc in place of akiec
_COLUMNS = ("lesion_id", "image_id", "dx")
_ONE_HOT = {name.upper() for name in (*CLASSES, *_MORE_CLASSES)}
_MAX_HEADER = 2**16  # bytes
# One of the 1,512 test images of 2018 is synthetic: it is not in the deposit, and the challenge does not score it.
_SYNTHETIC = "ISIC_0035068"
# The archive's names for the seven classes of the paper: its bkl are seborrheic and lichenoid keratoses and solar
# lentigines, its akiec are actinic keratoses and squamous cell carcinomas in situ.
_DIAGNOSES = {
    "nv": ("nevus",),
    "mel": ("melanoma", "melanoma, nos", "malignant melanocytic proliferations (melanoma)"),
    "bkl": ("pigmented benign keratosis", "seborrheic keratosis", "solar lentigo", "lichenoid keratosis"),
    "bcc": ("basal cell carcinoma",),
    "akiec": (
        "actinic keratosis", "solar or actinic keratosis", "squamous cell carcinoma", "squamous cell carcinoma, nos",
        "squamous cell carcinoma in situ",
    ),
    "vasc": ("vascular lesion", "benign soft tissue proliferations - vascular"),
    "df": ("dermatofibroma",),
}  # fmt: skip
_DX_OF = {diagnosis: dx for dx, diagnoses in _DIAGNOSES.items() for diagnosis in diagnoses}
_DIAGNOSIS_COLUMNS = ("diagnosis_5", "diagnosis_4", "diagnosis_3", "diagnosis_2", "diagnosis_1", "diagnosis")
_FORMS = {"image_id": "deposit", "image": "challenge", "isic_id": "archive"}  # by the column that names the image

Row = dict[str, str]


@dataclass(frozen=True)
class Labels:
    """The labels in a table.

    Attributes:
        table: the file.
        rows: the lesion_id (or ""), image_id and dx of each image.
        left_out: the kind of note and the reason for each other image of the table.
    """

    table: Path
    rows: list[Row]
    left_out: dict[str, tuple[str, str]]

    @property
    def dx_of(self) -> dict[str, str]:
        """The class of each image."""
        return {row["image_id"]: row["dx"] for row in self.rows}

    @property
    def notes(self) -> tuple[Note, ...]:
        """The notes on the images that are left out."""
        names: dict[str, list[str]] = defaultdict(list)
        for identity, (kind, reason) in self.left_out.items():
            names[kind].append(f"{identity} ({reason})")
        return tuple(one for kind in names for one in note(kind, names[kind]))


def columns_of(table: Path) -> tuple[str, ...]:
    """The names in the first line of a table; () if it cannot be read as text."""
    try:
        with open(table, "rb") as file:
            head = file.readline(_MAX_HEADER)
        return tuple(next(_fields(head.decode("utf-8-sig"), table))[1])
    except (OSError, UnicodeDecodeError, UserError, StopIteration):
        return ()


def has_labels(columns: Collection[str]) -> bool:
    """Whether a table with these columns names the images and their classes."""
    return (
        {"image_id", "dx"} <= set(columns)
        or ("image" in columns and len(_ONE_HOT & set(columns)) > 1)
        or ("isic_id" in columns and not set(_DIAGNOSIS_COLUMNS).isdisjoint(columns))
    )


def has_lesions(columns: Collection[str]) -> bool:
    """Whether a table with these columns names the lesions of a challenge's images."""
    return {"image", "lesion_id"} <= set(columns) and not has_labels(columns)


def class_names(rows: Iterable[Row]) -> tuple[str, ...]:
    """The seven classes of HAM10000; if there are other classes, those that occur."""
    names = {row["dx"] for row in rows}
    return CLASSES if names <= set(CLASSES) else tuple(name for name in (*CLASSES, *_MORE_CLASSES) if name in names)


def read_labels(table: Path) -> Labels:
    """The labels in a table of one of the three forms.

    Raises UserError if the table is damaged, if an image is repeated, or if a row has no class or several.
    """
    columns, records = _read(table)
    form = next((form for column, form in _FORMS.items() if column in columns), "deposit")
    left_out: dict[str, tuple[str, str]] = {}
    if form == "deposit":
        _require(table, columns, _COLUMNS)
        rows = [_from_deposit(table, line, record) for line, record in records]
    elif form == "challenge":
        _require(table, columns, (name.upper() for name in CLASSES if name != "akiec" or "AK" not in columns))
        rows = [_from_challenge(table, line, record) for line, record in records]
    else:
        rows = [_from_archive(record) for _, record in records]
        reasons = [_reason(record, row["dx"]) for (_, record), row in zip(records, rows, strict=True)]
        left_out = {row["image_id"]: reason for row, reason in zip(rows, reasons, strict=True) if reason}
    counts = Counter(row["image_id"] for row in rows)
    if repeated := [identity for identity, count in counts.items() if count > 1]:
        raise UserError(f"{table}: {len(repeated)} repeated image_id: {first_few(repeated)}; keep one row of each")
    if _SYNTHETIC in counts:
        left_out[_SYNTHETIC] = ("manipulated_image", "synthetic")
    labels = Labels(table, [row for row in rows if row["image_id"] not in left_out], left_out)
    if not labels.rows:
        notes = f"; {first_few(labels.notes)}" if left_out else ""
        raise UserError(f"{table}: no rows with a class of HAM10000{notes}; download it again")
    return labels


def read_lesions(table: Path) -> dict[str, str]:
    """The lesion of each image that has one."""
    return {record["image"]: record["lesion_id"] for _, record in _read(table)[1] if record["lesion_id"]}


def _from_deposit(table: Path, line: int, record: Row) -> Row:
    dx = record["dx"].lower()
    if dx not in CLASSES:
        raise UserError(f"{table}, line {line}: unknown dx '{record['dx']}'; valid: {', '.join(CLASSES)}")
    return {name: record[name] for name in _COLUMNS} | {"dx": dx}


def _from_challenge(table: Path, line: int, record: Row) -> Row:
    try:
        values = {name.lower(): float(record[name]) for name in record if name in _ONE_HOT}
    except ValueError as error:
        raise UserError(f"{table}, line {line}: {error}; each class must be 0 or 1") from error
    names = [name for name, value in values.items() if value]
    if len(names) != 1 or values[names[0]] != 1:
        raise UserError(f"{table}, line {line}: {len(names)} classes ({first_few(names)}); exactly one must be 1")
    return {"lesion_id": record.get("lesion_id", ""), "image_id": record["image"], "dx": names[0]}


def _from_archive(record: Row) -> Row:
    diagnoses = [record.get(column, "").lower() for column in _DIAGNOSIS_COLUMNS]
    return {
        "lesion_id": record.get("lesion_id") or record.get("patient_id", ""),
        "image_id": record["isic_id"],
        "dx": next((_DX_OF[diagnosis] for diagnosis in diagnoses if diagnosis in _DX_OF), ""),
    }


def _reason(record: Row, dx: str) -> tuple[str, str] | None:
    """The kind of note and the reason for which an image of the archive is left out."""
    if manipulation := record.get("image_manipulation"):
        return "manipulated_image", manipulation
    diagnosis = next((record[column] for column in _DIAGNOSIS_COLUMNS if record.get(column)), "none")
    return None if dx else ("foreign_diagnosis", diagnosis)


def _read(table: Path) -> tuple[list[str], list[tuple[int, Row]]]:
    """The columns of a table, and the rows with the line on which each begins."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{table}: not UTF-8 text (byte {error.start}); download it again") from error
    except OSError as error:
        raise UserError(f"{table}: {error.strerror}") from error
    fields = _fields(text, table)
    columns = next(fields, (1, []))[1]
    if repeated := [name for name, count in Counter(columns).items() if count > 1]:
        raise UserError(f"{table}: two columns '{repeated[0]}'; download it again")
    rows = []
    for line, values in fields:
        if len(values) != len(columns):
            raise UserError(
                f"{table}, line {line}: {len(values)} fields, but the header has {len(columns)}; download it again"
            )
        if any("\n" in value for value in values):
            raise UserError(f"{table}, line {line}: a quoted field of several lines; download it again")
        row = dict(zip(columns, values, strict=True))
        if not all(row.get(column, "-") for column in _FORMS):
            raise UserError(f"{table}, line {line}: no name of an image; download it again")
        rows.append((line, row))
    return columns, rows


def _fields(text: str, table: Path) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line that is not blank, separated by the header's separator."""
    header = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max("\t;,", key=header.count), strict=True)
    line = 1
    try:
        for values in reader:
            if values:
                yield line, [value.strip() for value in values]
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{table}, line {line}: {error}; download it again") from error


def _require(table: Path, columns: Collection[str], needed: Iterable[str]) -> None:
    if missing := [name for name in needed if name not in columns]:
        present = first_few(columns, limit=20) or "none"
        raise UserError(f"{table}: no column {', '.join(missing)}; columns: {present}; download it again")
