"""Read columns of text, numbers, labels and images from parquet files."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet
from pyarrow import types as kinds

from rgjax.data.pictures.decode import Encoded, Unreadable, is_image
from rgjax.errors import UserError, first_line

# A small file can declare any number of rows and texts of any length. Files that hold real rows are far below these.
_MAX_ROWS_PER_BYTE, _MIN_ROWS = 8, 2**20
_MAX_CHARACTERS_PER_BYTE, _MIN_CHARACTERS = 1000, 2**28
_MAX_IMAGES_PER_BYTE, _MIN_IMAGES = 100, 2**28  # images are compressed themselves
_MAX_NUMBERS_PER_BYTE, _MIN_NUMBERS = 25, 2**26
_BATCH_OF_IMAGES = 16
_BUFFER = 2**20  # bytes
_DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError)
_BATCH = 4096  # rows decoded at once


class ParquetTable(NamedTuple):
    """An open file.

    Attributes:
        path: the file.
        columns: the names of its columns.
        nested: those that hold neither text nor numbers, with their types.
        class_names: for columns of class indices of a Hugging Face data set, the names.
        images: the columns that hold images: the content of a file, or a struct with its `bytes` and its `path`.
        num_rows: the number of rows.
    """

    path: Path
    columns: tuple[str, ...]
    nested: dict[str, str]
    class_names: dict[str, list[str]]
    images: tuple[str, ...]
    num_rows: int

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, str]]:
        """The rows with the text of some columns; "" for null.

        Raises UserError if the file is damaged.
        """
        for texts in self._batches(columns):
            for cells in zip(*texts, strict=True):
                yield dict(zip(columns, cells, strict=True))

    def texts(self, columns: Sequence[str]) -> list[list[str]]:
        """The text of each of some columns, as `rows` has it."""
        batches = list(self._batches(columns)) if columns else []
        return [[text for batch in batches for text in batch[i]] for i in range(len(columns))]

    def _batches(self, columns: Sequence[str]) -> Iterator[list[list[str]]]:
        size = self.path.stat().st_size
        limit = max(_MIN_CHARACTERS, _MAX_CHARACTERS_PER_BYTE * size)
        try:
            with _open(self.path, columns) as file:
                if file.metadata.num_rows > max(_MIN_ROWS, _MAX_ROWS_PER_BYTE * size):
                    raise UserError(f"{self.path}: declares {file.metadata.num_rows:,} rows in {size:,} bytes")
                for batch in file.iter_batches(_BATCH, columns=list(columns), use_threads=False):
                    texts = [self._texts(name, batch.column(name)) for name in columns]
                    limit -= sum(len(text) for column in texts for text in column)
                    if limit < 0:
                        raise UserError(f"{self.path}: holds over 1,000 times as much text as its {size:,} bytes")
                    yield texts
        except _DAMAGE as error:
            raise _unreadable(self.path, error) from error

    def _texts(self, name: str, values: pa.Array) -> list[str]:
        if isinstance(values, pa.DictionaryArray):  # each text is decoded once, and then shared
            used = values.indices.unique().drop_null()
            texts = self._texts(name, values.dictionary.take(used))
            text_of = {None: "", **dict(zip(used.to_pylist(), texts, strict=True))}
            return [text_of[index] for index in values.indices.to_pylist()]
        names = self.class_names.get(name)
        if names is not None:
            return [_class_name(value.as_py(), names) for value in values]
        return [_as_text(value) for value in values]


def open_parquet(path: Path) -> ParquetTable:
    """Read the schema. Raises UserError if the file is not a parquet file."""
    try:
        with _open(path, ()) as file:
            schema, num_rows = file.schema_arrow, file.metadata.num_rows
            images = tuple(name for name in schema.names if _holds_images(file, name))
            size = _uncompressed_size(file) if images else 0
    except _DAMAGE as error:
        raise _unreadable(path, error) from error
    if size > max(_MIN_IMAGES, _MAX_IMAGES_PER_BYTE * path.stat().st_size):
        raise UserError(f"{path}: claims {size:,} bytes, over {_MAX_IMAGES_PER_BYTE} times its size")
    nested = {field.name: str(field.type) for field in schema if not _is_plain(field.type)}
    return ParquetTable(path, tuple(schema.names), nested, _class_names(schema), images, num_rows)


def image_rows(path: Path, column: str) -> Iterator[Encoded | Unreadable]:
    """The images of a column in order, of which a few are in memory at a time."""
    try:
        with _open(path, ()) as file:
            for batch in file.iter_batches(_BATCH_OF_IMAGES, columns=[column], use_threads=False):
                for value in batch.column(0):
                    yield _image(path.parent, value.as_py())
    except _DAMAGE as error:
        while True:
            yield Unreadable(f"{path.name} is damaged: {first_line(error)}")


def read_vectors(path: Path, column: str) -> np.ndarray:
    """A column of lists of D numbers as float32 [N, D]. Raises UserError for others."""
    parts, room = [], max(_MIN_NUMBERS, _MAX_NUMBERS_PER_BYTE * path.stat().st_size)
    try:
        with _open(path, ()) as file:
            if not _holds_numbers(kind := file.schema_arrow.field(column).type):
                raise UserError(f"{path}: column '{column}' is of type {kind}; it must be lists of numbers")
            for batch in file.iter_batches(_BATCH, columns=[column], use_threads=False):
                lists = batch.column(0)
                widths = np.array(pc.fill_null(pc.list_value_length(lists), 0))  # type: ignore[attr-defined]  # made at import
                width = parts[0].shape[1] if parts else int(widths[0])  # Arrow's int32 would overflow below
                if (odd := np.flatnonzero((widths != width) | (widths == 0))).size:
                    row = sum(map(len, parts)) + odd[0] + 1
                    raise UserError(
                        f"{path}: row {row} has {widths[odd[0]]} numbers in column '{column}', row 1 has {width}; each "
                        "row needs the same number"
                    )
                room -= len(lists) * width
                if room < 0:
                    raise UserError(f"{path}: holds over {_MAX_NUMBERS_PER_BYTE} numbers for each of its bytes")
                values = lists.flatten().to_numpy(zero_copy_only=False)
                parts.append(values.astype(np.float32).reshape(len(lists), width))
    except _DAMAGE as error:
        raise _unreadable(path, error) from error
    if not parts:
        raise UserError(f"{path}: no rows")
    return np.concatenate(parts)


def _holds_numbers(kind: pa.DataType) -> bool:
    lists = (kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list)
    is_number = (kinds.is_integer, kinds.is_floating)
    return any(is_(kind) for is_ in lists) and any(is_(kind.value_type) for is_ in is_number)


def _image(folder: Path, value: bytes | dict | None) -> Encoded | Unreadable:
    """An image from a cell, or the file whose path stands in it."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if content is None and isinstance(value, dict) and isinstance(path := value.get("path"), str):
        return folder / path
    return Unreadable("no image in this row") if content is None else content


def _holds_images(file: parquet.ParquetFile, column: str) -> bool:
    """Whether a column is of Hugging Face's type Image, or has bytes of images."""
    schema = file.schema_arrow
    kind = schema.field(column).type
    if kinds.is_struct(kind):
        is_file = kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
        return is_file and _features(schema).get(column, {}).get("_type", "Image") == "Image"
    if not _is_binary(kind):
        return False
    first = next(file.iter_batches(1, columns=[column], use_threads=False), None)
    value = first.column(0)[0].as_py() if first is not None and len(first) else None
    return value is not None and is_image(value)


def _is_binary(kind: pa.DataType) -> bool:
    return kinds.is_binary(kind) or kinds.is_large_binary(kind)


def _uncompressed_size(file: parquet.ParquetFile) -> int:
    """The bytes that a file claims.

    Damaged metadata of a single column end the process in pyarrow; those of a row group do not.
    """
    groups = range(file.metadata.num_row_groups)
    return sum(file.metadata.row_group(index).total_byte_size for index in groups)


def _open(path: Path, dictionaries: Sequence[str]) -> parquet.ParquetFile:
    return parquet.ParquetFile(
        path,
        read_dictionary=list(dictionaries),  # a text that repeats takes memory once
        pre_buffer=False,
        buffer_size=_BUFFER,  # else a column of a whole row group is read at once
        page_checksum_verification=True,
        arrow_extensions_enabled=False,
    )


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
    return UserError(f"{path}: not a readable parquet file: {reason}")


def _is_plain(kind: pa.DataType) -> bool:
    if kinds.is_dictionary(kind):
        kind = kind.value_type
    return not kinds.is_nested(kind)


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of Hugging Face's ClassLabel columns, from the schema's metadata."""
    return {
        name: [str(label) for label in feature["names"]]
        for name, feature in _features(schema).items()
        if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)
    }


def _features(schema: pa.Schema) -> dict[str, dict]:
    """The types of the columns of a Hugging Face data set; {} for other files."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _class_name(value: object, names: list[str]) -> str:
    """The name of a class index.

    -1, as in unlabelled test sets, is missing. A text is the name itself.
    """
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return "" if value is None or value == -1 else str(value)


def _as_text(value: pa.Scalar) -> str:
    """A cell as text.

    1.0 becomes 1, because pandas stores integers with missing values as floats.
    """
    try:
        cell = value.as_py()
    except UnicodeDecodeError:
        cell = value.as_buffer().to_pybytes()
    match cell:
        case None:
            return ""
        case bool():
            return str(cell).lower()
        case bytes():
            return cell.decode(errors="surrogateescape")
        case float():
            return "" if cell != cell else str(int(cell)) if cell.is_integer() else repr(cell)
    return str(cell)
