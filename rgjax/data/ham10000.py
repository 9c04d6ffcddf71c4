"""HAM10000: 10,015 dermatoscopic images of seven kinds of pigmented skin lesion (Tschandl et al. 2018)."""

import csv
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

from rgjax.console import local_path
from rgjax.data.cache import decode_and_cache, prepare, quiet_tfds
from rgjax.data.dataset import Source, blank_image, dataset_spec
from rgjax.errors import UserError, first_few
from rgjax.storage.files import digest

COUNTS = {"nv": 6705, "mel": 1113, "bkl": 1099, "bcc": 514, "akiec": 327, "vasc": 142, "df": 115}  # as published
TEST_COUNTS = {"nv": 908, "mel": 171, "bkl": 217, "bcc": 93, "akiec": 43, "vasc": 35, "df": 44}
CLASSES = tuple(COUNTS)
_DOWNLOAD = "download it from the Harvard Dataverse, doi:10.7910/DVN/DBW86T, and unpack the two image archives"
_METADATA = ("HAM10000_metadata", "HAM10000_metadata.csv", "HAM10000_metadata.tab")
_IMAGES = (".jpg", ".jpeg", ".png")
_ONE_HOT = ("image", *(name.upper() for name in CLASSES))
_TRUTH = "ISIC2018_Task3_Test_GroundTruth"
_SYNTHETIC = "ISIC_0035068"  # of the 1,512: made, not taken; the deposit lacks it, and the challenge does not score it


class Ham10000(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builder over a download. Each download has a BuilderConfig of its own, named by its content, because TFDS
    never prepares anew what it finds under an equal name, even where the source has changed."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = _DOWNLOAD

    def __init__(self, parts: dict[str, list[dict[str, str]]], images: dict[str, Path], **kwargs):
        self._parts, self._images = parts, images
        files = [(i, images[i].stat().st_size, images[i].stat().st_mtime_ns) for i in sorted(images)]
        config = tfds.core.BuilderConfig(name=digest(*map(repr, parts.values()), repr(files)))
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
        return {part: self._generate_examples(rows) for part, rows in self._parts.items()}

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


def load(*, image_size: int, manual_dir: str = "", data_dir: str = "", official_test: bool = False) -> Source:
    """All images at `image_size`, grouped by lesion, from a download in `manual_dir` (TFDS's manual folder if
    empty); with those of the `official_test` set if asked for. Raises UserError for a download that is missing,
    incomplete or damaged."""
    root = local_path(str(data_dir or constants.DATA_DIR))
    folder = local_path(manual_dir) if manual_dir else root / "downloads" / "manual"
    parts, images = read_download(folder, official_test=official_test)
    with quiet_tfds():
        builder = Ham10000(parts, images, data_dir=str(root))
    prepare(builder)
    arrays = decode_and_cache(
        builder,
        image_size,
        id_column="image_id",
        group_column="lesion_id",
        file_of=lambda identity: str(images[identity]),
    )
    return Source(
        inputs=arrays["inputs"],
        labels=arrays["labels"],
        class_names=CLASSES,
        groups=arrays["groups"],
        ids=arrays["ids"],
        official_test=arrays["test"] if official_test else None,
        fingerprint=str(arrays["fingerprint"]),
    )


def spec(*, image_size: int, official_test: bool = False) -> Source:
    """The data set by its published size, without the download; every image its own lesion."""
    if not official_test:
        return dataset_spec(COUNTS, blank_image(image_size))
    counts = {name: COUNTS[name] + TEST_COUNTS[name] for name in CLASSES}
    return dataset_spec(counts, blank_image(image_size), official_test=TEST_COUNTS)


def read_download(
    folder: Path, *, official_test: bool = False
) -> tuple[dict[str, list[dict[str, str]]], dict[str, Path]]:
    """The rows of "train", and of "test" if asked for, with the image file of each; the images may lie in the folder
    or one level below."""
    if not folder.is_dir():
        raise UserError(
            f"HAM10000: there is no folder {folder}; {_DOWNLOAD}, then give its folder by "
            "--config.data.manual_dir=FOLDER"
        )
    found = [folder / name for name in _METADATA if (folder / name).is_file()]
    if not found:
        raise UserError(f"HAM10000: {folder} has no {_METADATA[0]} (.csv or .tab may follow); {_DOWNLOAD}")
    parts = {"train": _read_metadata(found[0])}
    files = sorted([*folder.glob("*.*"), *folder.glob("*/*.*")])
    images = {path.stem: path for path in files if path.suffix.lower() in _IMAGES}
    _require_images(parts["train"], images, folder, "the metadata", _DOWNLOAD)
    if official_test:
        parts["test"] = _read_official_test(folder, images)
        known = {row["image_id"] for row in parts["train"]}
        if shared := [row["image_id"] for row in parts["test"] if row["image_id"] in known]:
            raise UserError(f"HAM10000: {len(shared)} images of {_TRUTH} are in the metadata too: {first_few(shared)}")
    return parts, {row["image_id"]: images[row["image_id"]] for rows in parts.values() for row in rows}


def _read_official_test(folder: Path, images: dict[str, Path]) -> list[dict[str, str]]:
    way_out = (
        f"config.data.split=official needs {_TRUTH}.csv and the unpacked ISIC2018_Task3_Test_Images.zip there, from "
        "doi:10.7910/DVN/DBW86T or challenge.isic-archive.com; or use config.data.split=grouped"
    )
    names = (pattern + _TRUTH + suffix for pattern in ("", "*/") for suffix in (".csv", ".tab"))
    found = [path for name in names for path in sorted(folder.glob(name)) if path.is_file()]
    if not found:
        raise UserError(f"HAM10000: {folder} has no {_TRUTH}.csv; {way_out}")
    rows = [row for row in _read_metadata(found[0]) if row["image_id"] != _SYNTHETIC]
    _require_images(rows, images, folder, "the test set", way_out)
    return rows


def _require_images(rows, images: dict[str, Path], folder: Path, whose: str, way_out: str) -> None:
    missing = [row["image_id"] for row in rows if row["image_id"] not in images]
    if missing:
        raise UserError(
            f"HAM10000: {len(missing)} of {len(rows)} images of {whose} are not in {folder}: "
            f"{first_few(missing)}; {way_out}"
        )


def _read_metadata(path: Path) -> list[dict[str, str]]:
    """The lesion_id, image_id and dx of each row of a table in the deposit's form or in the challenge's, which has a
    column of 0 and 1 for each class and names no lesions."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start})") from error
    lines = text.splitlines()
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    reader = csv.DictReader(lines, delimiter=delimiter)
    needed = ("lesion_id", "image_id", "dx")
    try:
        columns = tuple(reader.fieldnames or ())
        one_hot = "image" in columns and "image_id" not in columns
        if absent := [name for name in (_ONE_HOT if one_hot else needed) if name not in columns]:
            raise UserError(f"{path} has no column {', '.join(absent)}")
        table = map(_from_one_hot, reader) if one_hot else reader
        rows = [{name: row[name] or "" for name in needed} for row in table]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num + 1}: {error}") from error
    if not rows:
        raise UserError(f"{path} has no rows")
    for number, row in enumerate(rows, start=2):
        if row["dx"] not in CLASSES:
            raise UserError(f"{path}, line {number}: unknown dx '{row['dx']}'; valid: {', '.join(CLASSES)}")
    seen: set[str] = set()
    repeated = [row["image_id"] for row in rows if row["image_id"] in seen or seen.add(row["image_id"])]
    if repeated:
        raise UserError(f"{path} names {len(repeated)} images more than once: {first_few(repeated)}")
    return rows


def _from_one_hot(row: dict[str, str]) -> dict[str, str]:
    marked = [name for name in CLASSES if row[name.upper()] in ("1", "1.0")]
    return {"lesion_id": "", "image_id": row["image"], "dx": " and ".join(marked)}
