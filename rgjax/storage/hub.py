"""The Hugging Face hub, with pinned revisions and without code or pickles.

A repository is NAME or NAME@REVISION (a commit, tag or branch). Offline, the hub's cache on disk is used.
"""

import functools
import os
from pathlib import Path
from typing import Any

from rgjax.storage.files import file_sha256

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when huggingface_hub is imported, by whomever

# Commits of the default checkpoints, used where no revision is named.
PINNED = {
    "openai/clip-vit-base-patch32": "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    "bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
}
_HUB = "https://huggingface.co"
_ALLOWED = (".json", ".txt", ".safetensors", ".msgpack", ".zip")


class OutOfReach(Exception):
    """A repository or file is unavailable online and not cached; the message says why."""


class Refused(OutOfReach):
    """The hub can be reached, but has no such repository, or none for this user."""


def list_files(repository: str, kind: str = "model") -> dict[str, str | None]:
    """Names of a repository's files, and the SHA-256 of the large ones if online.

    `kind` is "model" or "dataset". The hub is asked once: a process does not wait for it again.
    """
    if isinstance(listed := _listed(repository, kind), OutOfReach):
        raise listed
    return listed


@functools.cache
def _listed(repository: str, kind: str) -> dict[str, str | None] | OutOfReach:
    # Imported here and below: it takes half a second, and most runs need no hub.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # no message for each retry
    name, revision = _revision(repository)
    try:
        # Before any download, which would retry for half a minute without a network.
        info: Any = HfApi().repo_info(name, revision=revision, repo_type=kind, timeout=20, files_metadata=True)
        return {file.rfilename: file.lfs.sha256 if file.lfs else None for file in info.siblings or ()}
    except Exception as error:  # several libraries raise here, for an unknown name or an unreachable server
        try:
            folder = Path(snapshot_download(name, revision=revision, repo_type=kind, local_files_only=True))
        except Exception:
            return _reason(error, name, revision)
        return {path.relative_to(folder).as_posix(): None for path in folder.rglob("*")}


def fetch(repository: str, file: str, kind: str = "model") -> Path:
    """The local path of a repository's file; downloads are held to the hub's SHA-256."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    if not file.endswith(_ALLOWED):
        raise OutOfReach(f"{file} may be code or a pickle, which are not fetched")
    name, revision = _revision(repository)
    cached = try_to_load_from_cache(name, file, revision=revision, repo_type=kind)
    try:
        path = Path(hf_hub_download(name, file, revision=revision, repo_type=kind))
    except Exception as error:
        raise _reason(error, name, revision) from error
    expected = None if str(path) == cached else list_files(repository, kind).get(file)
    if expected and file_sha256(path) != expected:
        path.resolve().unlink()  # or the cache would serve it next time
        raise OutOfReach(f"{file} arrived with another SHA-256 than the hub records; it was removed, try again")
    return path


def _reason(error: Exception, name: str, revision: str | None) -> OutOfReach:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    match error:
        case GatedRepoError():
            return Refused(f"it is gated on the hub: accept its terms at {_HUB}/{name} and log in (hf auth login)")
        case RepositoryNotFoundError():
            return Refused("the hub has no such repository; if it is private, log in (hf auth login)")
        case RevisionNotFoundError():
            return Refused(f"the hub has no revision '{revision}' of it")
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            return Refused("the hub refuses it: log in (hf auth login)")
    return OutOfReach(f"the Hugging Face hub is unavailable ({type(error).__name__})")


def cached(repository: str, file: str) -> Path | None:
    """The local path of a repository's file in the cache on disk; None without it."""
    from huggingface_hub import try_to_load_from_cache

    name, revision = _revision(repository)
    path = try_to_load_from_cache(name, file, revision=revision)
    return Path(path) if isinstance(path, str) else None


def _revision(repository: str) -> tuple[str, str | None]:
    name, _, revision = repository.partition("@")
    return name, revision or PINNED.get(name)
