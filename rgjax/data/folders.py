"""List the images in a folder with one subfolder per class."""

import os
from collections.abc import Iterator
from pathlib import Path

from rgjax.data.decode import SUFFIXES
from rgjax.data.listing import SPLIT_NAMES, Listing, counted, normal_label
from rgjax.data.notes import note
from rgjax.errors import UserError, first_few

# Files and folders that programs create and hide from their users.
LITTER = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", ".git", ".ipynb_checkpoints", ".cache", ".thumbnails"}


def images_of_folder(root: Path) -> Listing[Path]:
    folders, stray_files = entries(root)
    splits = {folder: SPLIT_NAMES.get(os.path.basename(folder).lower()) for folder in visible(folders)}
    official = _has_split_folders(root, splits)

    examples: list[tuple[str, str, str]] = []  # id, class, split
    empty, other_files = set(), []
    for folder, split in splits.items() if official else [(str(root), None)]:
        class_folders, files = entries(Path(folder))
        stray_files += files if official else []
        for class_folder in class_folders:
            label = _class_name(class_folder)
            images, non_images = _images_below(class_folder, root)
            if not images and visible([class_folder]):
                empty.add(label)
            examples += [(os.path.relpath(image, root), label, split or "") for image in images]
            other_files += non_images
    examples.sort()

    with_images = {split for _, _, split in examples}
    without = [folder for folder, split in splits.items() if official and split not in with_images]
    if without or not examples:
        where = without[0] if examples else root
        raise UserError(f"{where}: no class folders with images; make one folder per class and put its images there")
    if empty := empty - {label for _, label, _ in examples}:
        raise UserError(
            f"{root}: {counted(empty, 'class folder')} without images: {first_few(sorted(empty))}; add images or "
            "remove the folder"
        )
    return Listing(
        root,
        [root / identity for identity, _, _ in examples],
        [Path(identity).as_posix() for identity, _, _ in examples],
        [label for _, label, _ in examples],
        None,
        [split for _, _, split in examples] if official else None,
        (
            *note("stray_file", (os.path.relpath(file, root) for file in stray_files)),
            *note("other_file", (os.path.relpath(file, root) for file in other_files)),
        ),
    )


def _has_split_folders(root: Path, splits: dict[str, str | None]) -> bool:
    """Whether the folders are splits. Raises UserError if only some of them are."""
    known = {split for split in splits.values() if split}
    if known == {"train", "val"} and all(splits.values()):
        raise UserError(
            f"{root}: folders for training and validation, but none for testing; add one, or rename the validation "
            "folder to 'test' (validation examples are then drawn from the training set)"
        )
    if not known >= {"train", "test"}:
        return False
    if unknown := [os.path.basename(folder) for folder, split in splits.items() if not split]:
        raise UserError(
            f"{root}: train and test folders, but also others: {first_few(unknown)}; move these elsewhere, or into the "
            "train and test folders"
        )
    return True


def entries(folder: Path) -> tuple[list[str], list[str]]:
    """The folders and the files in a folder, sorted, without litter and hidden files.

    Hidden folders are kept: one may be a class, such as .net.
    """
    with os.scandir(folder) as entries:
        paths = sorted((entry.path, _is_folder(entry)) for entry in entries if entry.name.lower() not in LITTER)
    folders = [path for path, is_folder in paths if is_folder]
    return folders, visible([path for path, is_folder in paths if not is_folder])


def visible(paths: list[str]) -> list[str]:
    return [path for path in paths if not os.path.basename(path).startswith(".")]


def files_below(folder: Path) -> Iterator[Path]:
    """The visible files in a folder at any depth, in order.

    Links are followed, but each folder is read only once.
    """
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else sorted(filter(_is_visible, folders))
        if real not in seen:
            yield from (Path(parent, name) for name in sorted(filter(_is_visible, files)))
        seen.add(real)


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in LITTER


def _is_folder(entry: os.DirEntry) -> bool:
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))


def _images_below(folder: str, root: Path) -> tuple[list[str], list[str]]:
    """Images and other files at any depth.

    Links are followed, but each folder is read once, and links to `root` or its parents are skipped.
    """
    images, non_images, seen, queue = [], [], set(), [folder]
    real_root = os.path.realpath(root)
    while queue:
        folder = queue.pop()
        real = os.path.realpath(folder)
        if real in seen or os.path.commonpath([real, real_root]) == real:
            continue
        seen.add(real)
        folders, files = entries(Path(folder))
        queue += visible(folders)
        for path in files:
            has_suffix = os.path.splitext(path)[1].lower() in SUFFIXES
            special = not os.path.isfile(path) and os.path.exists(path)  # reading a pipe would never end
            (images if has_suffix and not special else non_images).append(path)
    return images, non_images


def _class_name(folder: str) -> str:
    name = os.path.basename(folder)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"class folder {folder!r}: its name is not UTF-8; rename it") from error
    return normal_label(name)
