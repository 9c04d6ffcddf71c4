"""HAM10000: 10,015 images of seven kinds of skin lesion (Tschandl et al. 2018)."""

import csv
from collections import Counter
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

from rgjax.config import Config
from rgjax.console import local_path
from rgjax.data.cache import decode_and_cache, prepare, quiet_tfds
from rgjax.data.dataset import Source, blank_image, dataset_spec
from rgjax.errors import UserError, first_few
from rgjax.storage.files import digest

COUNTS = {"nv": 6705, "mel": 1113, "bkl": 1099, "bcc": 514, "akiec": 327, "vasc": 142, "df": 115}  # published
TEST_COUNTS = {"nv": 908, "mel": 171, "bkl": 217, "bcc": 93, "akiec": 43, "vasc": 35, "df": 44}
CLASSES = tuple(COUNTS)
_DOWNLOAD = "download HAM10000 from the Harvard Dataverse, doi:10.7910/DVN/DBW86T, and unpack both image archives"
_METADATA = ("HAM10000_metadata", "HAM10000_metadata.csv", "HAM10000_metadata.tab")
_IMAGES = (".jpg", ".jpeg", ".png")
_ONE_HOT = ("image", *(name.upper() for name in CLASSES))
_TRUTH = "ISIC2018_Task3_Test_GroundTruth"
# One of the 1,512 test images is synthetic: it is not in the deposit, and the challenge does not score it.
_SYNTHETIC = "ISIC_0035068"


class Ham10000(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS builder for a download.

    The BuilderConfig is named by the download's content, because TFDS reuses prepared data with the same name even if
    the source has changed.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = _DOWNLOAD

    def __init__(self, splits: dict[str, list[dict[str, str]]], images: dict[str, Path], **kwargs):
        self._splits, self._images = splits, images
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
                    "label": tfds.features.ClassLabel(names=CLASSES),
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
    splits, images = read_download(folder, official_test=official_test)
    with quiet_tfds():
        builder = Ham10000(splits, images, data_dir=str(root))
    prepare(builder)
    arrays = decode_and_cache(
        builder,
        config.image_size,
        id_column="image_id",
        group_column="lesion_id",
        file_of=lambda identity: str(images[identity]),
    )
    return Source(
        inputs=arrays["inputs"],
        labels=arrays["labels"],
        class_names=CLASSES,
        group_ids=arrays["groups"],
        ids=arrays["ids"],
        official_test=arrays["test"] if official_test else None,
        fingerprint=str(arrays["fingerprint"]),
    )


def spec(config: Config) -> Source:
    """The published class counts, without the download; each image is its own lesion."""
    image = blank_image(config.image_size)
    if config.split != "official":
        return dataset_spec(COUNTS, image)
    counts = {name: COUNTS[name] + TEST_COUNTS[name] for name in CLASSES}
    return dataset_spec(counts, image, official_test=TEST_COUNTS)


def read_download(
    folder: Path, *, official_test: bool = False
) -> tuple[dict[str, list[dict[str, str]]], dict[str, Path]]:
    """Read the metadata of a download and find its images.

    Images lie in the same folder or one level below.

    Returns:
        The metadata rows of "train" and, if asked for, of "test"; and the file of each image, by its id.
    """
    if not folder.is_dir():
        raise UserError(f"HAM10000: no folder {folder}; {_DOWNLOAD}, then pass it by --config.data.manual_dir=FOLDER")
    metadata = next((folder / name for name in _METADATA if (folder / name).is_file()), None)
    if metadata is None:
        raise UserError(f"HAM10000: {folder} has no {_METADATA[0]} (or .csv, .tab); {_DOWNLOAD}")
    splits = {"train": _read_metadata(metadata)}
    files = sorted([*folder.glob("*.*"), *folder.glob("*/*.*")])
    images = {path.stem: path for path in files if path.suffix.lower() in _IMAGES}
    _require_images(splits["train"], images, metadata, _DOWNLOAD)
    if official_test:
        splits["test"] = _read_official_test(folder, images)
        train_ids = {row["image_id"] for row in splits["train"]}
        if shared := [row["image_id"] for row in splits["test"] if row["image_id"] in train_ids]:
            raise UserError(
                f"HAM10000: {len(shared)} images of {_TRUTH} are also in {metadata.name}: {first_few(shared)}; use the "
                "published files"
            )
    return splits, {row["image_id"]: images[row["image_id"]] for rows in splits.values() for row in rows}


def _read_official_test(folder: Path, images: dict[str, Path]) -> list[dict[str, str]]:
    fix = (
        f"config.data.split=official needs {_TRUTH}.csv and the unpacked ISIC2018_Task3_Test_Images.zip there, from "
        "doi:10.7910/DVN/DBW86T or challenge.isic-archive.com; or use config.data.split=grouped"
    )
    patterns = (prefix + _TRUTH + suffix for prefix in ("", "*/") for suffix in (".csv", ".tab"))
    tables = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]
    if not tables:
        raise UserError(f"HAM10000: {folder} has no {_TRUTH}.csv; {fix}")
    rows = [row for row in _read_metadata(tables[0]) if row["image_id"] != _SYNTHETIC]
    _require_images(rows, images, tables[0], fix)
    return rows


def _require_images(rows, images: dict[str, Path], table: Path, fix: str) -> None:
    """Raise UserError, with `fix`, if rows of the `table` have no image file."""
    if missing := [row["image_id"] for row in rows if row["image_id"] not in images]:
        raise UserError(
            f"HAM10000: {len(missing)} of {len(rows)} images in {table} have no file: {first_few(missing)}; {fix}"
        )


def _read_metadata(path: Path) -> list[dict[str, str]]:
    """The lesion_id, image_id and dx of each row.

    The challenge's table, unlike the deposit's, has a column of 0 and 1 for each class, and no lesions.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); download it again") from error
    lines = text.splitlines()
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    reader = csv.DictReader(lines, delimiter=delimiter)
    needed = ("lesion_id", "image_id", "dx")
    try:
        columns = tuple(reader.fieldnames or ())
        one_hot = "image" in columns and "image_id" not in columns
        if missing := [name for name in (_ONE_HOT if one_hot else needed) if name not in columns]:
            raise UserError(f"{path}: no column {', '.join(missing)}; download it again")
        table = map(_from_one_hot, reader) if one_hot else reader
        rows = [{name: row[name] or "" for name in needed} for row in table]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num + 1}: {error}; download it again") from error
    if not rows:
        raise UserError(f"{path}: no rows; download it again")
    for number, row in enumerate(rows, start=2):
        if row["dx"] not in CLASSES:
            raise UserError(f"{path}, line {number}: unknown dx '{row['dx']}'; valid: {', '.join(CLASSES)}")
    counts = Counter(row["image_id"] for row in rows)
    if repeated := [identity for identity, count in counts.items() if count > 1]:
        raise UserError(f"{path}: {len(repeated)} repeated image_id: {first_few(repeated)}; keep one row of each")
    return rows


def _from_one_hot(row: dict[str, str]) -> dict[str, str]:
    classes = [name for name in CLASSES if row[name.upper()] in ("1", "1.0")]
    return {"lesion_id": "", "image_id": row["image"], "dx": " and ".join(classes)}
