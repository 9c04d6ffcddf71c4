"""Files and folders that are no examples: those of programs and unread kinds."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from rgjax.errors import first_few

_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
_FOLDERS = {
    *("__macosx", "network trash folder", "temporary items", ".temporaryitems", ".appledouble", ".appledb"),
    *(".appledesktop", ".fseventsd", ".documentrevisions-v100", ".picasaoriginals", ".directory"),
    *("$recycle.bin", "recycler", "recycled", "system volume information", "$windows.~bt"),
    *("#recycle", "@recycle", "@eadir", "#snapshot", "@recently-snapshot", ".snapshot", ".snapshots", ".zfs"),
    *("@tmp", ".@__thumb", "lost+found", ".sync", ".stfolder", ".stversions", ".dropbox", ".dropbox.cache"),
    *(".tmp.drivedownload", ".tmp.driveupload", ".owncloudsync", ".thumbnails", ".cache", ".local"),
    *(".git", ".svn", ".hg", ".dvc", ".ipynb_checkpoints", "__pycache__", ".vscode", ".idea", ".vs", ".venv"),
}
_PATTERN = re.compile(r"\.trash|\.trashes|\.trash-.*|\.spotlight-v\d+|found\.\d{3}|~\$.*|\.nfs[0-9a-f]+")

_CONVERT = "convert them to PNG or JPEG"
# Suffixes of files that people take for images, and what to do with them.
_KINDS = {
    ".heic .heif .hif": ("HEIC photos", _CONVERT),
    ".dcm .dicom .ima": ("DICOM images", _CONVERT),
    ".nii .mgz .mha .mhd .nrrd": ("volumes", "save their slices as PNG"),
    ".svg .svgz .eps .ai .pdf .emf .wmf": ("vector graphics", _CONVERT),
    ".psd .psb .xcf .kra": ("layered images", _CONVERT),
    ".raw .cr2 .cr3 .crw .nef .nrw .arw .dng .raf .orf .rw2 .pef .srw": ("raw photos", _CONVERT),
    ".jxl .exr .hdr .dds .jxr": ("images that Pillow does not read", _CONVERT),
    ".svs .ndpi .mrxs .scn .czi .lif .nd2 .oib .vsi": ("microscope images", "save their regions as PNG"),
    ".mp4 .avi .mov .mkv .webm .wmv .m4v .mpg .mpeg .3gp .flv": ("videos", "save their frames as PNG or JPEG"),
    ".zip .tar .gz .tgz .bz2 .xz .7z .rar .zst": ("archives", "unpack them"),
    ".npy .npz .mat .h5 .hdf5 .tfrecord .lmdb .mdb": ("arrays", "save their images as PNG"),
}
_KIND_OF = {suffix: kind for suffixes, kind in _KINDS.items() for suffix in suffixes.split()}


def is_system_folder(name: str) -> bool:
    """Whether programs or operating systems make folders of this name."""
    name = name.lower()
    return name in _FOLDERS or bool(_PATTERN.fullmatch(name))


def is_system_file(name: str) -> bool:
    return name.lower() in _FILES or name.startswith("~$")


def is_unread_kind(file: str) -> bool:
    """Whether people take files with this suffix for images."""
    return _suffix(file) in _KIND_OF


def count_kinds(files: Iterable[str]) -> list[str]:
    """The files by suffix, such as "12 .heic (HEIC photos: convert them ...)"."""
    counts = Counter(map(_suffix, files))
    return [f"{count} {_described(suffix)}" for suffix, count in counts.most_common()]


def holds(files: Sequence[str]) -> str:
    """What a folder with these files holds, as a clause of a message."""
    return f"it holds {first_few(count_kinds(files))}" if files else "it holds no files"


def _suffix(file: str) -> str:
    return os.path.splitext(file)[1].lower()


def _described(suffix: str) -> str:
    name = suffix or "without a suffix"
    return f"{name} ({': '.join(_KIND_OF[suffix])})" if suffix in _KIND_OF else name
