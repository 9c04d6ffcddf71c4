import hashlib
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgjax.storage import manifest


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "run"
    (run / "groups").mkdir(parents=True)
    (run / "result.json").write_bytes(b'{"ba": 1}')
    (run / "groups" / "sizes.png").write_bytes(bytes(range(256)) * 300)
    manifest.write(run, ["result.json", "groups/sizes.png", "absent.npz"])
    return run


def test_existing_files_are_listed_with_size_and_checksum(folder):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert files.keys() == {"result.json", "groups/sizes.png"}
    assert files["result.json"] == {"sha256": hashlib.sha256(b'{"ba": 1}').hexdigest(), "bytes": 9}
    assert manifest.damages(folder) == {}


@pytest.mark.parametrize("place", [0, 40_000, -1])
def test_a_flipped_bit_is_detected(folder, place):
    path = folder / "groups" / "sizes.png"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert manifest.damages(folder) == {"groups/sizes.png": "checksum"}
    assert manifest.damages(folder, "result.json") == {}


def test_missing_bytes_and_files_are_detected(folder):
    (folder / "result.json").write_bytes(b"{")
    (folder / "groups" / "sizes.png").unlink()
    assert manifest.damages(folder) == {
        "groups/sizes.png": "it is missing",
        "result.json": "it has 1 bytes, not 9",
    }


def test_finished_means_result_listed_and_files_unchanged(folder):
    assert manifest.finished(folder)
    assert manifest.result(folder) == {"ba": 1}
    (folder / "groups" / "sizes.png").write_bytes(b"")
    assert not manifest.finished(folder)
    assert manifest.result(folder) == {"ba": 1}
    (folder / "result.json").write_bytes(b'{"ba": 2}')
    assert manifest.result(folder) is None
    (folder / "manifest.json").unlink()
    assert manifest.damages(folder) == {}
    assert not manifest.finished(folder)
    assert manifest.result(folder) is None


HALF = b'{"files": {"result.json": {"sha25'
MALFORMED = [b"", HALF, b"[]", b"{}", b"null", b"\xff", b'{"files": []}', b'{"files": {}}', b"[" * 100_000,
             b'{"files": {"a": 1}}', b'{"files": {"a": {"bytes": null, "sha256": ""}}}',
             b'{"files": {"a": {"bytes": Infinity, "sha256": ""}}}']  # fmt: skip


@pytest.mark.parametrize("content", MALFORMED, ids=lambda content: repr(content[:30]))
def test_a_malformed_manifest_is_reported(folder, content):
    (folder / "manifest.json").write_bytes(content)
    assert manifest.damages(folder)["manifest.json"].startswith("malformed: ")
    assert not manifest.finished(folder)


def damages_of(folder, name, content=b"secret"):
    state = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps({"files": {name: state}}))
    return list(manifest.damages(folder).values())


def test_names_outside_of_the_folder_are_reported(folder):
    (folder.parent / "outside").write_bytes(b"secret")
    (folder / "link").symlink_to(folder.parent / "outside")
    for name in ("../outside", str(folder.parent / "outside"), "groups/../../outside", "link"):
        (damage,) = damages_of(folder, name)
        assert "outside of the folder" in damage


def test_names_that_are_not_files_are_reported(folder):
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    for name in ("pipe", "groups", ".", "", "loop", "a\0b", "\ud800", "x" * 5000):
        (damage,) = damages_of(folder, name, b"")
        assert len(damage.splitlines()) == 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["bytes", "sha256", "a"]), inner),
    max_leaves=9,
)


@settings(max_examples=50, deadline=None)
@given(value=VALUES | st.dictionaries(st.just("files"), st.dictionaries(st.text(max_size=5), VALUES)))
def test_malformed_content_never_raises(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("run")
    (folder / "manifest.json").write_text(json.dumps(value))
    assert manifest.damages(folder)
