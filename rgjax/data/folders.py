"""List the images in a folder with one subfolder per class."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from rgjax.data.foreign import count_kinds, holds, is_system_file, is_system_folder, is_unread_kind
from rgjax.data.listing import SPLIT_NAMES, Listing, class_notes, counted, normal_label, normal_subclasses
from rgjax.data.notes import KINDS, Note, note
from rgjax.data.pictures.decode import SUFFIXES, is_image
from rgjax.errors import UserError, first_few

_MOST_FILES = 100_000  # that a message counts


@dataclass
class _Passed:
    """Files and folders that a user may expect to be read in another way.

    Attributes:
        root: the folder of the data.
        paths: the paths below it, by kind of note.
    """

    root: Path
    paths: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def notes(self) -> tuple[Note, ...]:
        relative = {kind: [os.path.relpath(path, self.root) for path in paths] for kind, paths in self.paths.items()}
        other_files = relative.pop("other_file", [])
        unread = [path for path in other_files if is_unread_kind(path)]
        return (
            *(one for kind in KINDS for one in note(kind, relative.get(kind, ()))),
            *note("other_file", (path for path in other_files if not is_unread_kind(path))),
            *note("other_kind", count_kinds(unread), len(unread)),
        )


def images_of_folder(root: Path) -> Listing[Path]:
    passed = _Passed(root)
    top = _unwrapped(root, passed)
    folders, stray_files = entries(top, passed)
    splits = {folder: SPLIT_NAMES.get(os.path.basename(folder).lower()) for folder in visible(folders)}
    official = _has_split_folders(top, splits)
    if official:
        passed.paths["hidden_folder"] += [folder for folder in folders if folder not in splits]

    examples: list[tuple[str, str, str, str]] = []  # id, class as it is written, split, folder in the class or ""
    empty: dict[str, list[str]] = {}
    for folder, split in splits.items() if official else [(str(top), None)]:
        class_folders, files = entries(Path(folder), passed) if official else (folders, [])
        stray_files += files
        for class_folder in class_folders:
            name = _class_name(class_folder)
            images, non_images = _images_below(class_folder, root, passed)
            hidden = not visible([class_folder])
            if not images and not hidden:
                empty[normal_label(name)] = non_images
            passed.paths["hidden_class"] += [class_folder] if images and hidden else []
            passed.paths["other_file"] += non_images
            for image in images:
                subclass = Path(image).relative_to(class_folder).parts[:-1]
                examples.append((os.path.relpath(image, root), name, split or "", "".join(subclass[:1])))
    examples.sort()
    passed.paths["stray_file"] += stray_files

    with_images = {split for _, _, split, _ in examples}
    without = [folder for folder, split in splits.items() if official and split not in with_images]
    if without or not examples:
        raise _no_images(Path(without[0]) if examples else root)
    label_of = {name: normal_label(name) for _, name, *_ in examples}
    if empty := {label: files for label, files in empty.items() if label not in label_of.values()}:
        kinds = f" ({holds(files)})" if (files := [file for files in empty.values() for file in files]) else ""
        raise UserError(
            f"{root}: {counted(empty, 'class folder')} without images: {first_few(sorted(empty))}{kinds}; add images "
            "or remove the folder"
        )
    paths, names, in_splits, subclasses = zip(*examples, strict=True)
    ids = [Path(path).as_posix() for path in paths]
    return Listing(
        root,
        [root / path for path in paths],
        ids,
        [label_of[name] for name in names],
        None,
        list(in_splits) if official else None,
        (*passed.notes(), *class_notes(names, ids)),
        subclasses=normal_subclasses(subclasses),
    )


def _unwrapped(root: Path, passed: _Passed) -> Path:
    """The folder with the classes or splits: `root`, or the only folder in it.

    Archives and Hugging Face's data sets have such wrappers, sometimes two.
    """
    wrappers, inner = [], root
    folders, files = entries(inner)
    while len(folders) == 1 and not os.path.islink(folders[0]) and not any(map(is_image_file, files)):
        wrappers.append(inner)
        inner = Path(folders[0])
        folders, files = entries(inner)
    if len(visible(folders)) < 2:
        return root
    for wrapper in wrappers:
        passed.paths["stray_file"] += entries(wrapper, passed)[1]
    return inner


def _no_images(folder: Path) -> UserError:
    files = [str(path) for path in islice(files_below(folder), _MOST_FILES)]
    if images := [path for path in files if is_image_file(path)]:
        contents = f"it holds {counted(images, 'image')}, but in no class folder"
    else:
        contents = holds(files)
    return UserError(
        f"{folder}: no class folders with images: {contents}; make one folder per class and put its images there"
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


def entries(folder: Path, passed: _Passed | None = None) -> tuple[list[str], list[str]]:
    """The folders and the files in a folder, sorted.

    Hidden files and what programs make is left out. Hidden folders are kept: one may be a class, such as .net.
    """
    passed = passed or _Passed(folder)
    folders, files = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_folder(entry):
                (passed.paths["system_folder"] if is_system_folder(entry.name) else folders).append(entry.path)
            elif not is_system_file(entry.name):
                files.append(entry.path)
    hidden = [file for file in files if os.path.basename(file).startswith(".")]
    passed.paths["hidden_file"] += [file for file in hidden if _has_image_suffix(file)]
    return sorted(folders), sorted(set(files).difference(hidden)) if hidden else sorted(files)


def visible(paths: list[str]) -> list[str]:
    return [path for path in paths if not os.path.basename(path).startswith(".")]


def is_image_file(path: str) -> bool:
    """Whether a file has the suffix of an image, or no suffix and the content of one."""
    return _has_image_suffix(path) or (_has_no_suffix(path) and os.path.isfile(path) and is_image(Path(path)))


def _has_image_suffix(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES


def _has_no_suffix(path: str) -> bool:
    return not os.path.splitext(path)[1]


def files_below(folder: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """The visible files in a folder at any depth, in order.

    Links are followed, but each folder is read only once. `on_error` gets the error of a folder that cannot be read.
    """
    seen = set()
    for parent, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else sorted(filter(_is_visible, folders))
        if real not in seen:
            yield from (Path(parent, name) for name in sorted(filter(_is_visible, files)))
        seen.add(real)


def _is_visible(name: str) -> bool:
    return not (name.startswith(".") or is_system_folder(name) or is_system_file(name))


def _is_folder(entry: os.DirEntry) -> bool:
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))


def _images_below(folder: str, root: Path, passed: _Passed) -> tuple[list[str], list[str]]:
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
        folders, files = entries(Path(folder), passed)
        queue += visible(folders)
        passed.paths["hidden_folder"] += set(folders).difference(queue)
        for path in files:
            special = not os.path.isfile(path) and os.path.exists(path)  # reading a pipe would never end
            is_image = not special and is_image_file(path)
            (images if is_image else non_images).append(path)
            if is_image and _has_no_suffix(path):
                passed.paths["no_suffix"].append(path)
    return images, non_images


def _class_name(folder: str) -> str:
    name = os.path.basename(folder)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"class folder {folder!r}: its name is not UTF-8; rename it") from error
    return name
