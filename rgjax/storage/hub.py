"""Files of the Hugging Face hub, and of its cache on disk where it is out of reach.

A repository is called NAME or NAME@REVISION, a commit, tag or branch of it. None of its code is fetched, and nothing
that could be a pickle; what is fetched must have the SHA-256 that the hub tells of it.
"""

import functools
import hashlib
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# Of the defaults the commits that are meant where none is named.
PINNED = {
    "openai/clip-vit-base-patch32": "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    "bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
}
_FETCHED = (".json", ".txt", ".safetensors", ".msgpack", ".zip")


class OutOfReach(Exception):
    """The hub does not give a repository or a file of it, and the cache does not hold it."""


@functools.cache
def list_files(repository: str, kind: str = "model") -> dict[str, str | None]:
    """The names of a repository's files, as far as they can be had, with the SHA-256 that the hub tells of the large
    ones; `kind` is "model" or "dataset"."""
    # Imported here and below: the hub's client takes half a second, and most runs need none.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it tells of each new attempt
    name, revision = _revision(repository)
    try:
        # Asked for first, because a download goes on trying for half a minute where there is no network.
        info: Any = HfApi().repo_info(name, revision=revision, repo_type=kind, timeout=20, files_metadata=True)
        return {file.rfilename: file.lfs.sha256 if file.lfs else None for file in info.siblings or ()}
    except Exception as error:  # of several libraries, for a name that is unknown or a server out of reach
        try:
            folder = Path(snapshot_download(name, revision=revision, repo_type=kind, local_files_only=True))
        except Exception:
            raise OutOfReach(type(error).__name__) from error
        return {path.relative_to(folder).as_posix(): None for path in folder.rglob("*")}


def fetch(repository: str, file: str, kind: str = "model") -> Path:
    """The local path of a file of a repository. One that has just come is held to its SHA-256."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    if not file.endswith(_FETCHED):
        raise OutOfReach(f"{file} may be code or a pickle, which are not fetched")
    name, revision = _revision(repository)
    before = try_to_load_from_cache(name, file, revision=revision, repo_type=kind)
    try:
        path = Path(hf_hub_download(name, file, revision=revision, repo_type=kind))
    except Exception as error:
        raise OutOfReach(type(error).__name__) from error
    if str(path) != before and (expected := list_files(repository, kind).get(file)):
        with open(path, "rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        if sha256 != expected:
            path.resolve().unlink()  # or the cache would give it next time
            raise OutOfReach(f"{file} came with another SHA-256 than the hub tells; it was removed, try again")
    return path


def _revision(repository: str) -> tuple[str, str | None]:
    name, _, revision = repository.partition("@")
    return name, revision or PINNED.get(name)
