"""Files of the Hugging Face hub, and of its cache on disk where it is out of reach."""

import functools
from pathlib import Path
from typing import Any


class OutOfReach(Exception):
    """The hub does not give a repository or a file of it, and the cache does not hold it."""


@functools.cache
def list_files(repository: str, kind: str = "model") -> set[str]:
    """The names of a repository's files, as far as they can be had; `kind` is "model" or "dataset"."""
    # Imported here and below: the hub's client takes half a second, and most runs need none.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it tells of each new attempt
    try:
        # Asked for first, because a download goes on trying for half a minute where there is no network.
        info: Any = HfApi().repo_info(repository, repo_type=kind, timeout=20)
        return {file.rfilename for file in info.siblings or ()}
    except Exception as error:  # of several libraries, for a name that is unknown or a server out of reach
        try:
            folder = Path(snapshot_download(repository, repo_type=kind, local_files_only=True))
        except Exception:
            raise OutOfReach(type(error).__name__) from error
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def fetch(repository: str, name: str, kind: str = "model") -> Path:
    """The local path of a file of a repository."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, name, repo_type=kind))
    except Exception as error:
        raise OutOfReach(type(error).__name__) from error
