"""HAM10000: 10,015 images of seven kinds of skin lesion (Tschandl et al. 2018)."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

from rgjax.config import Config
from rgjax.console import local_path
from rgjax.data.cache import decode_and_cache, prepare, quiet_tfds
from rgjax.data.dataset import Source, blank_image, dataset_spec
from rgjax.data.isic.files import Files, files_of, photographs
from rgjax.data.isic.tables import (
    CLASSES,
    COUNTS,
    Labels,
    Row,
    class_names,
    has_labels,
    has_lesions,
    read_labels,
    read_lesions,
)
from rgjax.data.notes import Note, note
from rgjax.errors import UserError, first_few
from rgjax.storage.files import digest

TEST_COUNTS = {"nv": 908, "mel": 171, "bkl": 217, "bcc": 93, "akiec": 43, "vasc": 35, "df": 44}
_DOWNLOAD = "download HAM10000 from the Harvard Dataverse, doi:10.7910/DVN/DBW86T, and unpack both image archives"
_METADATA = "ham10000_metadata"  # in lower case, without suffix
_TRUTH = "ISIC2018_Task3_Test_GroundTruth"
_TEST_FIX = (
    f"config.data.split=official needs {_TRUTH}.csv and the unpacked ISIC2018_Task3_Test_Images.zip there, from "
    "doi:10.7910/DVN/DBW86T or challenge.isic-archive.com; or use config.data.split=grouped"
)
# Names of tables for other sets than the one for training.
_HELD_OUT = re.compile(r"(?<![a-z])(test|val|valid|validation)(?![a-z])", re.IGNORECASE)


class Ham10000(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS builder for a download.

    The BuilderConfig is named by the download's content, because TFDS reuses prepared data with the same name even if
    the source has changed.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = _DOWNLOAD

    def __init__(self, splits: dict[str, list[Row]], images: dict[str, Path], **kwargs):
        self._splits, self._images = splits, images
        self._class_names = class_names(row for rows in splits.values() for row in rows)
        files = [(i, images[i].stat().st_size, images[i].stat().st_mtime_ns) for i in sorted(images)]
        config = tfds.core.BuilderConfig(name=digest(*map(repr, splits.values()), repr(files)))
        super().__init__(config=config, file_format="array_record", **kwargs)

    def _info(self):
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description="Dermatoscopic images of common pigmented skin lesions.",
            homepage="https://doi.org/10.7910/DVN/DBW86T",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=self._class_names),
                    "image_id": text,
                    "lesion_id": text,
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(rows) for split, rows in self._splits.items()}

    def _generate_examples(self, rows):
        for row in rows:
            yield (
                row["image_id"],
                {
                    "image": self._images[row["image_id"]],
                    "label": row["dx"],
                    "image_id": row["image_id"],
                    "lesion_id": row["lesion_id"] or row["image_id"],
                },
            )


def load(config: Config) -> Source:
    """All images of a download, grouped by lesion.

    `config.manual_dir` is the folder of the download (default: TFDS's manual folder). The official test images are
    included if `config.split` is "official". Raises UserError if the download is missing, incomplete or damaged.
    """
    root = local_path(str(config.data_dir or constants.DATA_DIR))
    folder = local_path(config.manual_dir) if config.manual_dir else root / "downloads" / "manual"
    official_test = config.split == "official"
    download = read_download(folder, official_test=official_test)
    with quiet_tfds():
        builder = Ham10000(download.splits, download.images, data_dir=str(root))
    prepare(builder)
    arrays, notes = decode_and_cache(
        builder,
        config.image_size,
        columns=("image_id", "lesion_id"),
        interpolation=config.interpolation,
        file_of=lambda identity: str(download.images[identity]),
        skip_unreadable=config.unreadable == "skip",
    )
    return Source(
        inputs=arrays["inputs"],
        labels=arrays["labels"],
        class_names=class_names(row for rows in download.splits.values() for row in rows),
        group_ids=arrays["groups"],
        ids=arrays["ids"],
        official_test=arrays["test"] if official_test else None,
        fingerprint=str(arrays["fingerprint"]),
        notes=(*download.notes, *notes),
        pictures=[download.images[identity] for identity in arrays["ids"].tolist()],
    )


def spec(config: Config) -> Source:
    """The published class counts, without the download; each image is its own lesion."""
    image = blank_image(config.image_size)
    if config.split != "official":
        return dataset_spec(COUNTS, image)
    counts = {name: COUNTS[name] + TEST_COUNTS[name] for name in CLASSES}
    return dataset_spec(counts, image, official_test=TEST_COUNTS)


@dataclass(frozen=True)
class Download:
    """What a folder holds of HAM10000 or of an ISIC challenge.

    Attributes:
        splits: rows with lesion_id, image_id and dx of "train" and, if asked for, of "test".
        images: the photograph of each image, by its id.
        notes: what was left out.
    """

    splits: dict[str, list[Row]]
    images: dict[str, Path]
    notes: tuple[Note, ...]


def read_download(folder: Path, *, official_test: bool = False) -> Download:
    """Read the labels of a download and find its photographs, at any depth.

    Raises UserError if the folder has no labels, or no or several photographs of an image.
    """
    if not folder.is_dir():
        where = f"pass its folder {folder.parent}" if folder.is_file() else "pass it"
        raise UserError(f"HAM10000: no folder {folder}; {_DOWNLOAD}, then {where} by --config.data.manual_dir=FOLDER")
    files = files_of(folder)
    labels, fixes = {"train": _training_labels(files)}, {"train": _DOWNLOAD}
    if official_test:
        labels["test"], fixes["test"] = _test_labels(files), _TEST_FIX
        if shared := [identity for identity in labels["test"].dx_of if identity in labels["train"].dx_of]:
            raise UserError(
                f"HAM10000: {len(shared)} images of {labels['test'].table.stem} are also in "
                f"{labels['train'].table.name}: {first_few(shared)}; use the published files"
            )
    identities = [identity for part in labels.values() for identity in part.dx_of]
    images, notes = photographs(identities, files, [identity for part in labels.values() for identity in part.left_out])
    for split, part in labels.items():
        if missing := [identity for identity in part.dx_of if identity not in images]:
            raise UserError(
                f"HAM10000: {len(missing)} of {len(part.rows)} images in {part.table} have no file: "
                f"{first_few(missing)}; {folder} holds {files}; {fixes[split]}"
            )
    alone = [row["image_id"] for row in labels["train"].rows if not row["lesion_id"]]
    return Download(
        {split: part.rows for split, part in labels.items()},
        images,
        (*(one for part in labels.values() for one in part.notes), *note("no_lesion", alone), *notes),
    )


def _training_labels(files: Files) -> Labels:
    tables = [
        table
        for table, columns in files.tables.items()
        if table.stem.lower() == _METADATA or (has_labels(columns) and not _HELD_OUT.search(table.name))
    ]
    if not tables:
        beside = [path for path in files.folder.parent.glob("*") if path.stem.lower() == _METADATA]
        fix = f"pass {files.folder.parent}, where {beside[0].name} lies" if beside else _DOWNLOAD
        raise UserError(
            f"HAM10000: {files.folder} has no HAM10000_metadata (or .csv, .tab) and no ground truth of ISIC 2018 or "
            f"2019; it holds {files}; {fix}"
        )
    first = min(map(_rank, tables))[0]
    return _with_lesions(_agreed_labels([table for table in tables if _rank(table)[0] == first]), files)


def _test_labels(files: Files) -> Labels:
    tables = [table for table in files.tables if table.stem.lower() == _TRUTH.lower()]
    if not tables:
        raise UserError(f"HAM10000: {files.folder} has no {_TRUTH}.csv; {_TEST_FIX}")
    return _agreed_labels(tables)


def _rank(table: Path) -> tuple[int, int, str, str]:
    """The order of tables of labels.

    The deposit's metadata, training sets of challenges, others; then outer ones first.
    """
    stem = table.stem.lower()
    kind = 0 if stem == _METADATA else 1 if "training_groundtruth" in stem else 2
    return kind, len(table.parts), table.suffix, str(table)


def _agreed_labels(tables: list[Path]) -> Labels:
    """The labels of the first table by rank; the others must have the same."""
    first, *rest = map(read_labels, sorted(tables, key=_rank))
    for other in rest:
        if other.dx_of != first.dx_of:
            raise UserError(f"HAM10000: {first.table} and {other.table} have different labels; move one elsewhere")
    return first


def _with_lesions(labels: Labels, files: Files) -> Labels:
    """The labels with the lesions that tables beside a challenge's ground truth name."""
    lesions: dict[str, str] = {}
    for table in (table for table, columns in files.tables.items() if has_lesions(columns)):
        for identity, lesion in read_lesions(table).items():
            if lesions.setdefault(identity, lesion) != lesion:
                raise UserError(f"{table}: another lesion_id of {identity} than in a table beside it; remove one table")
    rows = [row | {"lesion_id": row["lesion_id"] or lesions.get(row["image_id"], "")} for row in labels.rows]
    return replace(labels, rows=rows)
