"""Images inside files: listed without their content, read a few at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from rgjax.data.listing import Listing
from rgjax.data.pictures.decode import Encoded, Original, Packed, Unreadable
from rgjax.data.pictures.npz import npz_images, npz_labels, npz_rows
from rgjax.data.tables.parquet import image_rows
from rgjax.errors import UserError

_READ_AHEAD = 512  # images at once, of at most so many bytes together:
_MAX_BYTES = 2**26


def images_of_npz(file: Path) -> Listing[Path | Packed]:
    """The images of an .npz file in the form of MedMNIST, called `test:17`."""
    counts = npz_images(file)
    if len(counts) > 1 and (missing := {"train", "test"} - counts.keys()):
        raise UserError(
            f"{file}: arrays {', '.join(f'{split}_images' for split in counts)}, but no {missing.pop()}_images; only "
            "val_images is optional"
        )
    labels = [label for split, count in counts.items() for label in npz_labels(file, f"{split}_labels", count)]
    rows = [(split, row) for split, count in counts.items() for row in range(count)]
    return Listing(
        file,
        [Packed(file, f"{split}_images", row) for split, row in rows],
        [f"{split}:{row}" for split, row in rows],
        labels,
        None,
        [split for split, _ in rows] if len(counts) > 1 else None,
    )


READERS: dict[str, Callable[[Path, str], Iterator[Encoded | Unreadable]]] = {".npz": npz_rows, ".parquet": image_rows}


def read_images(images: Iterable[Original]) -> Iterator[list[Encoded | Unreadable]]:
    """The images in order, in lists that are small enough for memory.

    A file on its own stays a path. Of each file with images inside, the rows should ascend.
    """
    batch, size = [], 0
    for image in _each(images):
        batch.append(image)
        size += 0 if isinstance(image, Path | Unreadable) else len(image) if isinstance(image, bytes) else image.nbytes
        if len(batch) == _READ_AHEAD or size > _MAX_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _each(images: Iterable[Original]) -> Iterator[Encoded | Unreadable]:
    for place, group in groupby(images, lambda image: (image.file, image.part) if isinstance(image, Packed) else None):
        if place is None:
            yield from (image for image in group if not isinstance(image, Packed))
        else:
            yield from _rows(*place, [image.row for image in group if isinstance(image, Packed)])


def _rows(file: Path, part: str, rows: Sequence[int]) -> Iterator[Encoded | Unreadable]:
    """Some rows of a file. If it is damaged, the rest of it is unreadable."""
    content, position = READERS[file.suffix.lower()](file, part), 0
    for row in rows:
        if row < position:
            content, position = READERS[file.suffix.lower()](file, part), 0
        image: Encoded | Unreadable | None = None
        while position <= row:
            image = next(content, None)
            position += 1
        yield Unreadable("damaged file") if image is None else image
