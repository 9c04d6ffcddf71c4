"""Files in an archive, read by name into memory: nothing is unpacked to disk, whatever names and links it holds."""

import gzip
import tarfile
import zlib
from collections.abc import Collection
from pathlib import Path


def read_tar(archive: Path, names: Collection[str], *, limit: int) -> dict[str, bytes]:
    """The files called `names` in a .tar.gz. Raises ValueError for an archive that is damaged, lacks one of them or
    inflates to more than `limit` bytes, which is found out without inflating more."""
    found = {}
    try:
        with _Limited(archive, limit) as inflated, tarfile.open(fileobj=inflated, mode="r|") as members:
            for member in members:
                if member.name not in names:
                    continue
                if not member.isreg():
                    raise ValueError(f"its {member.name} is no file")
                if member.size > limit:
                    raise ValueError(f"its {member.name} would have {member.size:,} bytes")
                content = members.extractfile(member)
                found[member.name] = content.read() if content else b""
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ValueError(f"{archive.name} is damaged: {error}") from error
    if missing := sorted(set(names) - found.keys()):
        raise ValueError(f"{archive.name} has no {missing[0]}")
    return found


class _Limited(gzip.GzipFile):
    """What a gzip file inflates to, as far as `limit` bytes."""

    def __init__(self, path: Path, limit: int):
        super().__init__(path)
        self._left = limit

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self._left -= len(content)
        if self._left < 0:
            raise ValueError("it inflates to more than such an archive holds")
        return content
