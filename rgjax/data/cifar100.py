"""CIFAR-100 (Krizhevsky 2009): 100 classes of small photographs, with an official test set."""

import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.image_classification import cifar

from rgjax.console import local_path
from rgjax.data.archives import read_tar
from rgjax.data.cache import decode_and_cache, prepare
from rgjax.data.dataset import Source, blank_image, dataset_spec
from rgjax.errors import UserError, first_line

_PIXELS = 32 * 32 * 3
_LARGEST = 2**28  # bytes of the unpacked archive, half as many again as the real one's
_CLASS_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CLASSES = tuple(_CLASS_NAMES.split())


class Cifar100(cifar.Cifar100, skip_registration=True):
    """The catalog's data set, with the same name, version, keys and records, prepared without TensorFlow."""

    def _split_generators(self, dl_manager):
        info = self._cifar_info
        archive = Path(dl_manager.download(info.url))
        names = [*info.label_files, info.train_files[0], info.test_files[0]]
        found = read_tar(archive, {info.prefix + name for name in names}, limit=_LARGEST)
        *labels, train, test = (found[info.prefix + name] for name in names)
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
            planes = record[len(keys) :].reshape(3, 32, 32)
            yield (
                index,
                {
                    **dict(zip(keys, record.tolist(), strict=False)),
                    "id": f"{split_prefix}{index:05d}",
                    "image": Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0))),
                },
            )


def load(*, image_size: int, manual_dir: str = "", data_dir: str = "") -> Source:
    """All images at `image_size` with their fine labels, prepared in `data_dir` from a download or from the
    archive in `manual_dir`. Raises UserError where neither is to be had."""
    builder = Cifar100(data_dir=data_dir or None, file_format="array_record")
    folder, url = local_path(manual_dir), builder._cifar_info.url
    try:
        if not builder.data_path.exists() and not (folder / Path(url).name).exists():
            # TFDS itself would go on for minutes with a server that it cannot reach.
            urllib.request.urlopen(url, timeout=20).close()
        prepare(builder, folder if manual_dir else None)
        arrays = decode_and_cache(
            builder, image_size, id_column="id", group_column="id", manual_dir=folder if manual_dir else None
        )
    except (OSError, ValueError, NonMatchingChecksumError) as error:
        raise UserError(
            f"CIFAR-100 cannot be prepared ({first_line(error)}): put cifar-100-binary.tar.gz from "
            f"{builder.info.homepage} into a folder and give it by --config.data.manual_dir=FOLDER, or a folder "
            "with prepared data by --config.data.data_dir=FOLDER"
        ) from error
    features: Any = builder.info.features
    return Source(
        inputs=arrays["inputs"],
        labels=arrays["labels"],
        class_names=tuple(features["label"].names),
        groups=arrays["groups"],
        ids=arrays["ids"],
        official_test=arrays["test"],
        fingerprint=str(arrays["fingerprint"]),
    )


def spec(*, image_size: int) -> Source:
    """The data set by its published size, without the download: 500 images of each class, and 100 for the test."""
    return dataset_spec(dict.fromkeys(CLASSES, 600), blank_image(image_size), official_test=dict.fromkeys(CLASSES, 100))
