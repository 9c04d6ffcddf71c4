"""Fuzz targets by name: a file, a check of what its reader returns, and valid examples."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from absl.testing import flagsaver
from PIL import Image
from pyarrow import parquet

from rgjax import config as settings
from rgjax.command import CONFIG, parse
from rgjax.config import FIELDS, validate, value_of
from rgjax.data import phrasebank
from rgjax.data.custom import list_images, list_sentences
from rgjax.data.isic.tables import class_names, read_labels
from rgjax.data.pictures.decode import Unreadable, decode
from rgjax.errors import UserError
from rgjax.models.bert import bert_config
from rgjax.models.pretrained import Checkpoint, Tensors
from rgjax.models.tokenizer import WordPieces
from rgjax.models.vit_families import CLIP
from rgjax.report.page import render_page
from rgjax.report.reading import read_history, read_runs, read_sweep, read_test_logits
from rgjax.report.runs import COLUMNS
from rgjax.report.study import count_statuses, describe_progress, make_studies
from rgjax.report.tables import csv_table, latex_tables, markdown_page, write_parquet
from rgjax.storage.files import digest
from rgjax.training.setup import duration
from tests.support.data import read_table
from tests.support.sweeps import Sweep

ROOT = Path(__file__).parents[2]
CHECKPOINTS = ROOT / "tests" / "models" / "checkpoints"
DECLARED = (UserError, Unreadable)
LONGEST_LINE = 5000  # characters of an error
LARGEST_IMAGE = 2**16  # pixels: larger ones only take time
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "profit", "fell", "ros", "##e", "."]
BERT = {"max_position_embeddings": 16, "vocab_size": len(WORDS)}


@dataclass(frozen=True)
class Target:
    """`check` takes the path of `file`, in a folder that `prepare` has filled. It raises one of `DECLARED` for bad
    input and AssertionError for a broken promise."""

    file: str
    check: Callable[[Path], None]
    seeds: Callable[[], list[bytes]]
    prepare: Callable[[Path], None] = lambda folder: None

    def run(self, content: bytes, folder: Path) -> bool:
        """Whether the content was accepted."""
        path = folder / self.file
        path.write_bytes(content)
        try:
            self.check(path)
        except DECLARED as error:
            text = str(error)
            assert text.isprintable(), f"an error of several lines or unprintable: {text!r}"
            assert 0 < len(text) <= LONGEST_LINE, f"an error of {len(text)} characters"
            return False
        return True


def sentences(path: Path) -> None:
    rows = read_table(path, ["text", "label"])
    assert rows
    for row in rows:
        assert row.keys() == rows[0].keys()
        assert all(isinstance(value, str) for value in row.values())
        assert row["text"].strip() and row["label"].strip()
    listing = list_sentences(str(path))
    assert len(listing.items) == len(listing.labels) == len(set(listing.ids)) == len(rows)
    source = listing.source(np.array(listing.items), "")
    assert source.inputs.tolist() == listing.items, "NumPy keeps another text"
    assert len(source.class_names) > 1 and set(source.labels) == set(range(len(source.class_names)))
    for text in (*listing.items, *listing.ids, *source.class_names):
        text.encode()


def images(path: Path) -> None:
    listing = list_images(str(path))
    assert all(item.is_file() for item in listing.items)
    assert len(set(listing.ids)) == len(listing.items)


def metadata(path: Path) -> None:
    rows = read_labels(path).rows
    assert rows
    assert len({row["image_id"] for row in rows}) == len(rows)
    for row in rows:
        assert row.keys() == {"lesion_id", "image_id", "dx"}
        assert row["dx"] in class_names(rows)


def lines(path: Path) -> None:
    texts, labels = phrasebank.parse(path.read_bytes(), "file")
    assert len(texts) == len(labels) > 0
    assert set(labels) <= set(phrasebank.CLASSES)
    assert np.array(texts).tolist() == texts
    assert all(text.strip() == text != "" and len(text) <= 10_000 for text in texts)


def picture(path: Path) -> None:
    with patch.object(Image, "MAX_IMAGE_PIXELS", LARGEST_IMAGE):
        pixels = decode(path.read_bytes(), 8)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (8, 8, 3))


def command_line(path: Path) -> None:
    """Each line is a setting without its `--config.`."""
    words = [f"--config.{line}" for line in path.read_bytes().decode(errors="surrogateescape").split("\n") if line]
    argv = ["main", f"--config={ROOT / 'configs' / 'digits.py'}", *words]
    with flagsaver.flagsaver():
        parse(argv, "")
        config = CONFIG.value
    validate(config)
    for name, field in FIELDS.items():
        kind = field.default if isinstance(field.default, type) else type(field.default)
        value = value_of(config, name)
        assert value is None or type(value) is kind, f"{name}={value!r}"
        if kind is int and value is not None:
            np.int32(value)
    json.dumps(json.loads(config.to_json()), allow_nan=False)
    digest(json.dumps(settings.identity(config)))
    for name in ("train.eval", "train.checkpoint", "train.warmup", "loss.drw_start"):
        steps = duration(config, name, total_steps=1000, steps_per_epoch=30)
        assert steps is None or steps >= 1


def _take_all(tensors: Tensors) -> None:
    for name, read in tensors.weights.readers.items():
        try:
            shape = read().shape
        except Exception:  # `take` reports it
            shape = ()
        array = tensors.take(name, shape)
        assert array.dtype == np.float32 and array.shape == shape and np.isfinite(array).all()


def weights(path: Path) -> None:
    _take_all(Checkpoint(str(path.parent), ways_out="a folder").tensors())


def bert(path: Path) -> None:
    values = bert_config(Checkpoint(str(path.parent), ways_out="a folder")).values()
    assert all(isinstance(value, str) or 0 < value < np.inf for value in values)


def clip(path: Path) -> None:
    values = CLIP.settings(Checkpoint(str(path.parent), ways_out="a folder")).values()
    assert all(isinstance(value, str) or 0 < value < np.inf for value in values)


def vocabulary(path: Path) -> None:
    tokenizer = WordPieces(Checkpoint(str(path.parent), ways_out="a folder"), BERT, 16)
    ids, lengths = tokenizer(np.array(["Profit rose.", "", "fell " * 50, "\u00e9\ufffd\U0001f600"]))
    assert ids.dtype == lengths.dtype == np.int32
    assert ids.shape == (4, lengths.max()) and (lengths >= 2).all() and (lengths <= 16).all()
    assert (ids >= 0).all() and (ids < BERT["vocab_size"]).all()
    assert (ids[np.arange(ids.shape[1])[None] >= lengths[:, None]] == 0).all()


def report(path: Path) -> None:
    """The whole report except its figures, of the runs beside the file."""
    folder = next(parent for parent in path.parents if (parent / "here").exists())
    runs, (_, plans) = read_runs(folder), read_sweep(folder)
    for run in runs:
        for name, kind in COLUMNS.items():
            value = run.row[name]
            assert value is None or type(value) is kind, f"{name}={value!r}"
            assert not isinstance(value, float) or np.isfinite(value), f"{name}={value!r}"
        for row in read_history(run):
            assert np.isfinite(list(row.values())).all()
        if (predictions := read_test_logits(run)) is not None:
            logits, labels = predictions
            assert logits.ndim == 2 and labels.shape == logits.shape[:1]
            assert np.isfinite(logits).all() and labels.dtype.kind in "iu"
            assert ((labels >= 0) & (labels < logits.shape[1])).all()
    studies = make_studies(runs, plans)
    page = render_page("title", None, [(study, []) for study in studies])
    table = markdown_page("title", describe_progress(count_statuses(studies)), studies)
    for text in (page, table, latex_tables(studies), csv_table(studies)):
        text.encode()
    write_parquet(path.parent / "results.parquet", runs)


def _two_runs(folder: Path) -> None:
    """A finished run, one file of which the target overwrites, and another run beside it."""
    (folder / "here").touch()
    sweep = Sweep(folder, sizes=(8, 4))
    sweep.run("a", "rg")
    sweep.run("b", "ce", stage=None)


def _run_file(name: str) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        with TemporaryDirectory() as folder:
            _two_runs(Path(folder))
            files = [Path(folder) / "digits" / run / name for run in "ab"]
            return [file.read_bytes() for file in files if file.exists()]

    return seeds


def _files(*names: str) -> Callable[[], list[bytes]]:
    return lambda: [(CHECKPOINTS / name).read_bytes() for name in names]


def _copies(*names: str) -> Callable[[Path], None]:
    def copy(folder: Path) -> None:
        for name in names:
            shutil.copy(CHECKPOINTS / name, folder)

    return copy


def _two_images(folder: Path) -> None:
    for name in ("a.png", "b.png"):
        (folder / name).touch()


def _small_safetensors() -> list[bytes]:
    from ml_dtypes import bfloat16
    from safetensors.numpy import save

    kinds = (np.float32, np.float16, np.float64, np.int8, np.bool_, bfloat16)
    return [
        save({"LayerNorm.gamma": np.ones(3, kind), "a.weight": np.arange(4).reshape(2, 2).astype(kind)})
        for kind in kinds
    ] + [(2**60).to_bytes(8, "little") + b'{"a":{}}', b'\x10\x00\x00\x00\x00\x00\x00\x00{"__metadata__":1']


def _small_msgpack() -> list[bytes]:
    from flax.serialization import msgpack_serialize

    tree = {"a": {"kernel": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float16)}, "b": {"scale": np.ones(2)}}
    return [msgpack_serialize(tree), msgpack_serialize({"kernel": np.ones((1, 1, 2, 2), np.float32), "n": 3})]


def _tables() -> list[bytes]:
    rows = [("Sales fell, again", "bad", "1", "train"), ('She said "up"\nand left', "good", "2", "test")]
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    text = "text,label,group,split\r\n" + "\r\n".join(quoted)
    odd = ["text,label\na,b\nc,d\n", "text;label;id\na;b;7\n\nc;d;8\n", "text\tlabel\na\tb\nc\td"]
    return [text.encode(), text.encode("utf-16"), b"\xef\xbb\xbf" + text.encode(), *(part.encode() for part in odd)]


def _json_lines() -> list[bytes]:
    return [
        b'{"text": "a", "label": "x", "id": 1}\n{"text": 1.5, "label": true, "id": null}\n',
        b'{"text": "\\u00e9\\ud83d\\ude00", "label": "x", "more": [1, {"a": NaN}]}\n{"text": "b", "label": 1e999}',
        b'{"text": "\\ud800", "label": "x"}\n{"text": "b\\u0000", "label": "y"}',
    ]


def _json_arrays() -> list[bytes]:
    return [
        b'[{"text": "a", "label": "x"},\n {"text": 1.5, "label": true, "id": null}]',
        b'[\n{"text": "a", "label": "x"},{"text": "b", "label": "y", "more": [NaN]}\n]\n',
    ]


def _parquet_files() -> list[bytes]:
    tables = [
        pa.table({"text": ["a", "b"], "label": ["x", "y"]}),
        pa.table({"text": ["a", "b", None], "label": ["x", "y", "x"]}),
        pa.table({"text": pa.array(["a", "b"]).dictionary_encode(), "label": pa.array([1, 0], pa.int8())}),
        pa.table({"text": [b"a", b"\xff"], "label": [1.5, float("nan")], "image": [{"bytes": b"x"}] * 2}),
    ]
    files = []
    for table in tables:
        buffer = io.BytesIO()
        parquet.write_table(table, buffer)
        files.append(buffer.getvalue())
    return files


def _ham_tables() -> list[bytes]:
    head = "lesion_id,image_id,dx,dx_type,age,sex,localization\n"
    marks = "image,NV,MEL,BKL,BCC,AKIEC,VASC,DF\nISIC_1,1.0,0,0,0,0,0,0\nISIC_2,0,1,0,0,0,0,0\n"
    plain = head + "HAM_0,ISIC_1,nv,histo,80.0,male,scalp\n,ISIC_2,mel,histo,,,\n"
    return [plain.encode(), plain.replace(",", "\t").encode(), marks.encode(), ('"' + "a" * 140_000 + '"').encode()]


def _pictures() -> list[bytes]:
    colors = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    pictures, exif = [], Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "ICO", "TGA"):
        buffer = io.BytesIO()
        Image.fromarray(colors).save(buffer, kind, **({"exif": exif} if kind in ("JPEG", "PNG") else {}))
        pictures.append(buffer.getvalue())
    for mode in ("LA", "P", "I;16", "CMYK", "1", "F"):
        buffer = io.BytesIO()
        gray = Image.fromarray(colors[..., 0])
        gray = Image.fromarray(colors[..., 0].astype(np.uint16)) if mode == "I;16" else gray.convert(mode)
        gray.save(buffer, "TIFF" if mode in ("CMYK", "F") else "PNG")
        pictures.append(buffer.getvalue())
    return pictures


def _settings() -> list[bytes]:
    fields = [f"{name}={3 if isinstance(f.default, type) else f.default}" for name, f in FIELDS.items()]
    some = ["\n".join(fields[start : start + 8]).encode() for start in range(0, len(fields), 8)]
    return [*some, b"train.lr=1e999", b"train.eval_epochs=inf", b"seed=99999999999999999999", b"data.positive=\xff\n"]


def _plans() -> list[bytes]:
    runs = {"variant": "", "tuning": 0, "reported": 3}
    return [json.dumps({"studies": {"digits": {"methods": {"ce": runs}}}, "command": "x"}).encode(), b"{}"]


def _tokenizers() -> list[bytes]:
    from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

    with TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(WORDS))
        path = Path(folder) / "tokenizer.json"
        BertWordPieceTokenizer(str(path.with_name("vocab.txt"))).save(str(path))
        return [path.read_bytes()]


TARGETS: dict[str, Target] = {
    "csv": Target("own.csv", sentences, _tables),
    "tsv": Target("own.tsv", sentences, lambda: [content.replace(b",", b"\t") for content in _tables()]),
    "jsonl": Target("own.jsonl", sentences, _json_lines),
    "json": Target("own.json", sentences, _json_arrays),
    "parquet": Target("own.parquet", sentences, _parquet_files),
    "paths": Target(
        "own.csv",
        images,
        lambda: [b"path,label\na.png,x\nb/../b.png,y\n", b"path,label\n./b.png,x\na.png,y"],
        _two_images,
    ),
    "ham10000": Target("HAM10000_metadata.csv", metadata, _ham_tables),
    "phrasebank": Target(
        "Sentences_50Agree.txt", lines, lambda: [b"Sales fell @ 3 % .@negative\r\n\nP\xf6rssi .@neutral\n"]
    ),
    "image": Target("image", picture, _pictures),
    "settings": Target("settings", command_line, _settings),
    "safetensors": Target("model.safetensors", weights, _small_safetensors, _copies("bert/config.json")),
    "msgpack": Target("flax_model.msgpack", weights, _small_msgpack, _copies("bert/config.json")),
    "bert": Target("config.json", bert, _files("bert/config.json", "bert_flax/config.json")),
    "clip": Target("config.json", clip, _files("clip/config.json", "clip_vision/config.json")),
    "vocabulary": Target("vocab.txt", vocabulary, lambda: ["\n".join(WORDS).encode(), "\r\n".join(WORDS).encode()]),
    "tokenizer": Target("tokenizer.json", vocabulary, _tokenizers),
    **{
        f"run_{name.partition('.')[0]}": Target(f"digits/a/{name}", report, _run_file(name), _two_runs)
        for name in ("run.json", "config.json", "result.json", "provenance.json", "metrics.jsonl", "predictions.npz")
    },
    "sweep": Target("sweep.json", report, _plans, _two_runs),
}
