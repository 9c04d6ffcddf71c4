"""CIFAR-100 (Krizhevsky 2009): photographs of 100 classes, official test set."""

import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.image_classification import cifar

from rgjax.config import Config
from rgjax.console import local_path
from rgjax.data.archives import read_tar
from rgjax.data.cache import decode_and_cache, prepare
from rgjax.data.dataset import Source, blank_image, dataset_spec
from rgjax.errors import UserError, first_line

_SIDE = 32
_PIXELS = _SIDE * _SIDE * 3
_MAX_BYTES = 2**28  # limit of the unpacked archive, 1.5 times the real one
_CLASS_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CLASSES: tuple[str, ...] = tuple(_CLASS_NAMES.split())


class Cifar100(cifar.Cifar100, skip_registration=True):
    """The builder of the TFDS catalog, without its need for TensorFlow.

    Name, version, keys and records are the same.
    """

    def _split_generators(self, dl_manager):
        info = self._cifar_info
        archive = Path(dl_manager.download(info.url))
        names = [*info.label_files, info.train_files[0], info.test_files[0]]
        contents = read_tar(archive, {info.prefix + name for name in names}, limit=_MAX_BYTES)
        *labels, train, test = (contents[info.prefix + name] for name in names)
        features: Any = self.info.features
        for key, content in zip(info.label_keys, labels, strict=True):
            features[key].names = content.decode().split()
        return {
            "train": self._generate_examples("train_", train),
            "test": self._generate_examples("test_", test),
        }

    def _generate_examples(self, split_prefix, filepaths):
        keys = self._cifar_info.label_keys
        records = np.frombuffer(filepaths, np.uint8).reshape(-1, len(keys) + _PIXELS)
        for index, record in enumerate(records):
            planes = record[len(keys) :].reshape(3, _SIDE, _SIDE)
            yield (
                index,
                {
                    **dict(zip(keys, record.tolist(), strict=False)),
                    "id": f"{split_prefix}{index:05d}",
                    "image": Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0))),
                },
            )


def load(config: Config) -> Source:
    """All images with their fine labels and the official test set.

    Prepared in `config.data_dir`, from the archive in `config.manual_dir` or a download. Raises UserError if neither
    can be read.
    """
    builder = Cifar100(data_dir=config.data_dir or None, file_format="array_record")
    folder, url = local_path(config.manual_dir), builder._cifar_info.url
    manual_dir = folder if config.manual_dir else None
    try:
        if not builder.data_path.exists() and not (folder / Path(url).name).exists():
            # TFDS itself retries for minutes if the server cannot be reached.
            urllib.request.urlopen(url, timeout=20).close()
        prepare(builder, manual_dir)
        how = {"columns": ("id", "id"), "interpolation": config.interpolation, "manual_dir": manual_dir}
        arrays, notes = decode_and_cache(builder, config.image_size, **how)
        originals = config.image_size == _SIDE
        pictures = None if originals else list(decode_and_cache(builder, _SIDE, **how)[0]["inputs"])
    except (OSError, ValueError, NonMatchingChecksumError) as error:
        raise UserError(
            f"CIFAR-100 cannot be prepared: {first_line(error)}; download cifar-100-binary.tar.gz from "
            f"{builder.info.homepage} and pass its folder by --config.data.manual_dir=FOLDER, or pass a folder of "
            "prepared data by --config.data.data_dir=FOLDER"
        ) from error
    features: Any = builder.info.features
    return Source(
        inputs=arrays["inputs"],
        labels=arrays["labels"],
        class_names=tuple(features["label"].names),
        group_ids=arrays["groups"],
        ids=arrays["ids"],
        official_test=arrays["test"],
        fingerprint=str(arrays["fingerprint"]),
        notes=notes,
        pictures=pictures,
    )


def spec(config: Config) -> Source:
    """The published sizes: per class 500 training images and 100 test images."""
    counts, test_counts = dict.fromkeys(CLASSES, 600), dict.fromkeys(CLASSES, 100)
    return dataset_spec(counts, blank_image(config.image_size), official_test=test_counts)
