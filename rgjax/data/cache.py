"""Decode the images of a TFDS builder with Pillow and cache them by content."""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from rgjax.console import progress
from rgjax.data.notes import Note, note, notes_on
from rgjax.data.pictures.decode import Unreadable, decode_with_remarks, named
from rgjax.errors import UserError, first_few, first_line
from rgjax.storage.files import cache_dir, cached_arrays, digest, set_aside


class DamagedRecords(Exception):
    """Prepared records are missing or fail their checksums."""


def prepare(builder: tfds.core.DatasetBuilder, manual_dir: Path | None = None) -> None:
    """Write the builder's records to its data folder, unless they are there."""
    with quiet_tfds():
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=manual_dir and str(manual_dir))
        )


def decode_and_cache(
    builder: tfds.core.DatasetBuilder,
    image_size: int,
    *,
    columns: tuple[str, str],
    interpolation: str,
    file_of: Callable[[str], str] = str,
    manual_dir: Path | None = None,
    skip_unreadable: bool = False,
) -> tuple[dict[str, np.ndarray], tuple[Note, ...]]:
    """All examples of a prepared builder, decoded once and then read from the cache.

    Examples are ordered by split, train first. Damaged records are moved aside and prepared again.

    Args:
        builder: a builder whose records are prepared.
        image_size: side S of the decoded images in pixels.
        columns: the feature that names an example, and the one whose equal values form a group.
        interpolation: how images are resized, `data.interpolation`.
        file_of: maps an id to the name of the image file, for error messages.
        manual_dir: the download folder from which damaged records are prepared again.
        skip_unreadable: leave out images that cannot be decoded.

    Returns:
        `inputs` uint8 [N, S, S, 3] (RGB), `labels` int32 [N], `ids` and `groups` [N], `test` bool [N]
        (the example is in a split of that name), and the `fingerprint` of all of it; and notes on the images.

    Raises:
        UserError: images cannot be decoded.
    """
    read = partial(_decode_or_read, builder, image_size, interpolation, columns)
    try:
        arrays = read()
    except DamagedRecords as error:
        set_aside(Path(builder.data_path), error)
        prepare(builder, manual_dir)
        arrays = read()
    unreadable = [file_of(identity) for identity in arrays.get("unreadable", ())]  # earlier caches have no such arrays
    if unreadable and not (skip_unreadable and len(arrays["ids"])):
        raise UserError(
            f"{len(unreadable)} of {len(unreadable) + len(arrays['ids'])} images cannot be read: "
            f"{first_few(unreadable)}; download them again, or skip them by --config.data.unreadable=skip"
        )
    remarks = zip(arrays["ids"], map(str.split, arrays.get("remarks", ())), strict=False)
    return arrays, (*notes_on(remarks), *note("unreadable_image", unreadable))


def _decode_or_read(builder, image_size: int, interpolation: str, columns_of: tuple[str, str]) -> dict[str, np.ndarray]:
    id_column, group_column = columns_of
    splits = sorted(builder.info.splits.values(), key=lambda split: split.name != "train")
    records = [Path(path) for split in splits for path in split.filepaths]
    if missing := [path.name for path in records if not path.exists()]:
        raise DamagedRecords(f"{missing[0]} is missing")
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in records]
    key = digest("images-v2", builder.info.full_name, image_size, *named(interpolation), repr(states))

    def compute() -> dict[str, np.ndarray]:
        total = sum(split.num_examples for split in splits)
        inputs = np.empty((total, image_size, image_size, 3), np.uint8)
        columns: dict[str, list] = {"labels": [], "ids": [], "groups": [], "test": [], "remarks": []}
        unreadable = []
        for split, example in progress(_examples(builder, splits), "decode", total, unit="image"):
            identity = example[id_column].decode()
            try:
                decoded = decode_with_remarks(example["image"], image_size, interpolation)
            except Unreadable:
                unreadable.append(identity)
                continue
            inputs[len(columns["ids"])] = decoded.pixels
            columns["labels"].append(example["label"])
            columns["ids"].append(identity)
            columns["groups"].append(example[group_column].decode())
            columns["test"].append(split == "test")
            columns["remarks"].append(" ".join(decoded.remarks))
        inputs = inputs[: len(columns["ids"])]
        arrays = {name: np.array(values) for name, values in columns.items()}
        arrays |= {
            "inputs": inputs,
            "labels": arrays["labels"].astype(np.int32),
            "unreadable": np.array(unreadable, str),
        }
        return arrays | {"fingerprint": np.array(digest(inputs, arrays["labels"], arrays["ids"]))}

    return cached_arrays(cache_dir() / "images" / f"{key}.npz", compute)


def _examples(builder, splits) -> Iterator[tuple[str, dict]]:
    """The name of its split and the features of each example, images undecoded."""
    skip = {"image": tfds.decode.SkipDecoding()}
    for split in splits:
        try:
            for example in builder.as_data_source(split.name, decoders=skip):
                yield split.name, example
        except Exception as error:  # raised by TFDS or Riegeli
            raise DamagedRecords(first_line(error)) from error


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Silence what TFDS prints about sizes, folders and missing optional packages."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
