"""Read files of a tar archive into memory by name; nothing is unpacked to disk."""

import gzip
import tarfile
import zlib
from collections.abc import Collection
from pathlib import Path


def read_tar(archive: Path, names: Collection[str], *, limit: int) -> dict[str, bytes]:
    """The content of the files `names` in a .tar.gz.

    Raises ValueError if the archive is damaged, lacks one of the files, or inflates to more than `limit` bytes; no
    more than that is inflated.
    """
    contents = {}
    try:
        with _LimitedGzip(archive, limit) as inflated, tarfile.open(fileobj=inflated, mode="r|") as members:
            for member in members:
                if member.name not in names:
                    continue
                if not member.isreg():
                    raise ValueError(f"{member.name} in {archive.name} is not a regular file")
                if member.size > limit:
                    raise ValueError(f"{member.name} in {archive.name} claims {member.size:,} bytes")
                content = members.extractfile(member)
                contents[member.name] = content.read() if content else b""
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ValueError(f"{archive.name} is damaged: {error}") from error
    if missing := sorted(set(names) - contents.keys()):
        raise ValueError(f"{archive.name} has no {missing[0]}")
    return contents


class _LimitedGzip(gzip.GzipFile):
    """A gzip file that raises ValueError after `limit` inflated bytes."""

    def __init__(self, path: Path, limit: int):
        super().__init__(path)
        self._name, self._remaining = path.name, limit

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self._remaining -= len(content)
        if self._remaining < 0:
            raise ValueError(f"{self._name} inflates to more than the real archive")
        return content
