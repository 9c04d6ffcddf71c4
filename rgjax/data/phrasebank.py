"""Financial PhraseBank: the sentiment of financial news (Malo et al. 2014)."""

import re
import zipfile
from pathlib import Path

import numpy as np

from rgjax.config import Config
from rgjax.console import local_path
from rgjax.data.dataset import Source, dataset_spec
from rgjax.errors import UserError, unknown
from rgjax.storage import hub
from rgjax.storage.files import digest

AGREEMENTS = {
    "50agree": "Sentences_50Agree.txt",
    "66agree": "Sentences_66Agree.txt",
    "75agree": "Sentences_75Agree.txt",
    "allagree": "Sentences_AllAgree.txt",
}
COUNTS = {  # published: the shares in the README of version 1.0 times the totals of the data set card
    "50agree": {"neutral": 2879, "positive": 1363, "negative": 604},
    "66agree": {"neutral": 2535, "positive": 1168, "negative": 514},
    "75agree": {"neutral": 2146, "positive": 887, "negative": 420},
    "allagree": {"neutral": 1391, "positive": 570, "negative": 303},
}
CLASSES = tuple(COUNTS["50agree"])
# Quantiles 0, 0.1, ..., 1 of the sentence lengths in bert-base-uncased tokens, [CLS] and [SEP] included.
TOKEN_QUANTILES = (4, 15, 19, 22, 25, 28, 31, 36, 41, 50, 150)
_REPOSITORY, _ARCHIVE = "takala/financial_phrasebank", "data/FinancialPhraseBank-v1.0.zip"
_FOLDER = "FinancialPhraseBank-v1.0"
_MAX_BYTES = 16_000_000  # per file, twenty times the real size
_MAX_CHARACTERS = 10_000  # per sentence
_WAY_OUT = (
    f"download {Path(_ARCHIVE).name} from huggingface.co/datasets/{_REPOSITORY} and pass the folder that holds it, or "
    "its unpacked files, by --config.data.manual_dir=FOLDER"
)


def load(config: Config) -> Source:
    """The sentences on whose label enough annotators agree, by `config.agreement`.

    Read from the file in `config.manual_dir`, or from the hub's archive. Equal sentences form a group. Raises
    UserError if neither can be read.
    """
    content, where = _content(AGREEMENTS[config.agreement], config.manual_dir)
    sentences, names = parse(content, where)
    inputs = np.array(sentences)
    labels = np.array([CLASSES.index(name) for name in names], np.int32)
    return Source(
        inputs=inputs,
        labels=labels,
        class_names=CLASSES,
        group_ids=inputs,
        ids=np.arange(len(labels)).astype(str),
        official_test=None,
        fingerprint=digest(inputs, labels),
    )


def spec(config: Config) -> Source:
    """The published class counts; each sentence is its own group."""
    return dataset_spec(COUNTS[config.agreement], np.array(""))


def parse(content: bytes, where: str) -> tuple[list[str], list[str]]:
    """Sentences and labels of lines SENTENCE@LABEL.

    The text is UTF-8 or, like the original, Latin-1. Blank lines are skipped.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = _from_latin_1(content, where)
    sentences, labels = [], []
    for number, line in enumerate(re.split(r"\r\n?|\n", text), start=1):
        if not line.strip():
            continue
        if "\0" in line:
            raise UserError(f"{where}, line {number}: not text in UTF-8 or Latin-1")
        sentence, separator, label = (part.strip() for part in line.rpartition("@"))
        if not separator:
            raise UserError(f"{where}, line {number}: no '@' before a label")
        if label not in CLASSES:
            raise unknown(f"label in {where}, line {number}:", label, CLASSES)
        if not sentence:
            raise UserError(f"{where}, line {number}: the sentence is empty")
        if len(sentence) > _MAX_CHARACTERS:
            raise UserError(
                f"{where}, line {number}: the sentence has {len(sentence)} characters, more than {_MAX_CHARACTERS}"
            )
        sentences.append(sentence)
        labels.append(label)
    if not sentences:
        raise UserError(f"{where}: no sentences")
    return sentences, labels


def _from_latin_1(content: bytes, where: str) -> str:
    """The text of the original's encoding.

    Latin-1 accepts any bytes, so damaged UTF-8 and other encodings are refused by what they would look like.
    """
    for number, line in enumerate(re.split(rb"\r\n?|\n", content), start=1):
        text = line.decode("latin-1")
        if not line.isascii() and (_is_utf_8(line) or any("\x7f" < character < "\xa0" for character in text)):
            raise UserError(f"{where}, line {number}: not text in Latin-1 as other lines are; save the file as UTF-8")
    return content.decode("latin-1")


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _content(name: str, manual_dir: str) -> tuple[bytes, str]:
    if not manual_dir:
        return _from_archive(_download(), name)
    folder = local_path(manual_dir)
    contents = {path: path.read_bytes() for path in (folder / name, folder / _FOLDER / name) if path.is_file()}
    if len(set(contents.values())) > 1:
        raise UserError(f"{' and '.join(map(str, contents))} differ; keep one of them")
    for path, content in contents.items():
        return content, str(path)
    archive = folder / Path(_ARCHIVE).name
    if archive.is_file():
        return _from_archive(archive, name)
    raise UserError(f"{folder}: neither {name} nor {archive.name} of Financial PhraseBank; {_WAY_OUT}")


def _from_archive(archive: Path, name: str) -> tuple[bytes, str]:
    try:
        with zipfile.ZipFile(archive) as files:
            member = files.getinfo(f"{_FOLDER}/{name}")
            if member.file_size > _MAX_BYTES:
                raise ValueError(f"{member.filename} unpacks to {member.file_size:,} bytes")
            return files.read(member), f"{archive}:{name}"
    except Exception as error:  # zipfile raises many types for damaged archives
        raise UserError(f"{archive} cannot be read ({error}); {_WAY_OUT}") from error


def _download() -> Path:
    try:
        hub.list_files(_REPOSITORY, "dataset")
        return hub.fetch(_REPOSITORY, _ARCHIVE, "dataset")
    except hub.OutOfReach as error:
        raise UserError(f"Financial PhraseBank cannot be downloaded ({error}); {_WAY_OUT}") from error
