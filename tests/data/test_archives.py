import gzip
import io
import random
import tarfile

import pytest

from rgjax.data.archives import read_tar

LIMIT = 2**21


def tar(path, *members):
    """Members are names with content, or TarInfos."""
    with tarfile.open(path, "w:gz") as files:
        for member, content in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = len(content)
            files.addfile(info, io.BytesIO(content))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def inflated(monkeypatch):
    """How many bytes were inflated."""
    counts, read = [], gzip.GzipFile.read

    def counting(self, size=-1):
        content = read(self, size)
        counts.append(len(content))
        return content

    monkeypatch.setattr(gzip.GzipFile, "read", counting)
    return lambda: sum(counts)


def test_named_files_are_read_and_nothing_is_written(tmp_path):
    evil = (
        ("../../evil", b"x"),
        ("/tmp/evil", b"x"),
        (special("link", tarfile.SYMTYPE, "/etc"), b""),
        ("link/evil", b"x"),
    )
    archive = tar(
        tmp_path / "a.tar.gz", *evil, ("in/a", b"aaa"), (special("pipe", tarfile.FIFOTYPE), b""), ("b", b"bb")
    )
    before = sorted(tmp_path.rglob("*"))
    assert read_tar(archive, {"in/a", "b"}, limit=LIMIT) == {"in/a": b"aaa", "b": b"bb"}
    assert sorted(tmp_path.rglob("*")) == before


def test_special_members_are_refused(tmp_path):
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
        archive = tar(tmp_path / "a.tar.gz", (special("a", kind, "/etc/passwd"), b""))
        with pytest.raises(ValueError, match=r"a in a\.tar\.gz is not a regular file"):
            read_tar(archive, {"a"}, limit=LIMIT)


def test_a_file_of_a_gigabyte_is_refused_by_its_header(tmp_path, inflated):
    head = tarfile.TarInfo("a")
    head.size = 2**30
    zeros = gzip.compress(bytes(2**24), 1)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(head.tobuf()) + 64 * zeros)
    with pytest.raises(ValueError, match="claims 1,073,741,824 bytes"):
        read_tar(tmp_path / "a.tar.gz", {"a"}, limit=LIMIT)
    assert inflated() < LIMIT


@pytest.mark.parametrize("other", ["filler", "a"])
def test_inflating_stops_at_the_limit(other, tmp_path, inflated):
    members = [(f"{other}{i or ''}", bytes(LIMIT // 4)) for i in range(64)]
    archive = tar(tmp_path / "a.tar.gz", *members, ("a", b"a"))
    with pytest.raises(ValueError, match="inflates to more"):
        read_tar(archive, {"a"}, limit=LIMIT)
    assert inflated() < 1.1 * LIMIT


@pytest.mark.parametrize(
    "content", [b"", b"no archive", b"\x1f\x8b", gzip.compress(bytes(10**6), mtime=0), gzip.compress(b"x", mtime=0)]
)
def test_content_that_is_not_an_archive_is_a_value_error(content, tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.tar\.gz (is damaged|has no a)"):
        read_tar(tmp_path / "a.tar.gz", {"a"}, limit=LIMIT)


def test_damage_anywhere_is_a_value_error_or_harmless(tmp_path):
    whole = tar(tmp_path / "a.tar.gz", ("a", bytes(random.Random(0).choices(range(4), k=30_000)))).read_bytes()
    for at in range(0, len(whole), 61):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]):
            (tmp_path / "a.tar.gz").write_bytes(damaged)
            try:
                read_tar(tmp_path / "a.tar.gz", {"a"}, limit=LIMIT)
            except ValueError as error:
                assert len(str(error).splitlines()) == 1
