"""HAM10000: 10,015 dermatoscopic images of seven kinds of pigmented skin lesion (Tschandl et al. 2018)."""

import csv
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

from rgjax.data.dataset import Source, blank_image, outlined
from rgjax.data.materialise import materialise, prepare, quiet_tfds
from rgjax.errors import UserError, first_few
from rgjax.storage import digest, local

COUNTS = {"nv": 6705, "mel": 1113, "bkl": 1099, "bcc": 514, "akiec": 327, "vasc": 142, "df": 115}  # as published
CLASSES = tuple(COUNTS)
_DOWNLOAD = "download it from the Harvard Dataverse, doi:10.7910/DVN/DBW86T, and unpack the two image archives"
_METADATA = ("HAM10000_metadata", "HAM10000_metadata.csv", "HAM10000_metadata.tab")
_IMAGES = (".jpg", ".jpeg", ".png")


class Ham10000(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builder over a download. Each download has a BuilderConfig of its own, named by its content, because TFDS
    never prepares anew what it finds under an equal name, even where the source has changed."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = _DOWNLOAD

    def __init__(self, rows: list[dict[str, str]], images: dict[str, Path], **kwargs):
        self._rows, self._images = rows, images
        files = [(i, images[i].stat().st_size, images[i].stat().st_mtime_ns) for i in sorted(images)]
        config = tfds.core.BuilderConfig(name=digest(repr(rows), repr(files)))
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
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for row in self._rows:
            yield (
                row["image_id"],
                {
                    "image": self._images[row["image_id"]],
                    "label": row["dx"],
                    "image_id": row["image_id"],
                    "lesion_id": row["lesion_id"] or row["image_id"],
                },
            )


def load(*, image_size: int, manual_dir: str = "", data_dir: str = "") -> Source:
    """All images at `image_size`, grouped by lesion, from a download in `manual_dir` (TFDS's manual folder if
    empty). Raises UserError for a download that is missing, incomplete or damaged."""
    root = local(str(data_dir or constants.DATA_DIR))
    folder = local(manual_dir) if manual_dir else root / "downloads" / "manual"
    rows, images = read_download(folder)
    with quiet_tfds():
        builder = Ham10000(rows, images, data_dir=str(root))
    prepare(builder)
    arrays = materialise(
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
        official_test=None,
        fingerprint=str(arrays["fingerprint"]),
    )


def outline(*, image_size: int) -> Source:
    """The data set by its published size, without the download; every image its own lesion."""
    return outlined(COUNTS, blank_image(image_size))


def read_download(folder: Path) -> tuple[list[dict[str, str]], dict[str, Path]]:
    """The metadata's rows, and the image file of each; the images may lie in the folder or one level below."""
    if not folder.is_dir():
        raise UserError(
            f"HAM10000: there is no folder {folder}; {_DOWNLOAD}, then give its folder by "
            "--config.data.manual_dir=FOLDER"
        )
    found = [folder / name for name in _METADATA if (folder / name).is_file()]
    if not found:
        raise UserError(f"HAM10000: {folder} has no {_METADATA[0]} (.csv or .tab may follow); {_DOWNLOAD}")
    rows = _read_metadata(found[0])
    files = sorted([*folder.glob("*.*"), *folder.glob("*/*.*")])
    images = {path.stem: path for path in files if path.suffix.lower() in _IMAGES}
    missing = [row["image_id"] for row in rows if row["image_id"] not in images]
    if missing:
        raise UserError(
            f"HAM10000: {len(missing)} of {len(rows)} images of the metadata are not in {folder}: "
            f"{first_few(missing)}; {_DOWNLOAD}"
        )
    return rows, {row["image_id"]: images[row["image_id"]] for row in rows}


def _read_metadata(path: Path) -> list[dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start})") from error
    lines = text.splitlines()
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    reader = csv.DictReader(lines, delimiter=delimiter)
    needed = ("lesion_id", "image_id", "dx")
    absent = [name for name in needed if name not in (reader.fieldnames or ())]
    if absent:
        raise UserError(f"{path} has no column {', '.join(absent)}")
    rows = [{name: row[name] or "" for name in needed} for row in reader]
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
