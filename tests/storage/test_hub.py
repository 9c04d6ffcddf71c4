import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from rgjax.encoders import bert, clip
from rgjax.errors import UserError
from rgjax.models.pretrained import Checkpoint
from rgjax.storage import hub


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and a cache of our own; huggingface_hub reads both settings when it is imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_what_an_earlier_use_has_left_is_enough(offline):
    revision = "a" * 40
    repository = offline / "models--someone--some-model"
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    (snapshot / "config.json").write_text("{}")
    assert hub.list_files("someone/some-model") == {"config.json": None}
    assert hub.fetch("someone/some-model", "config.json").read_text() == "{}"


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_what_cannot_be_had_is_one_error(kind, offline):
    with pytest.raises(hub.OutOfReach, match="OfflineModeIsEnabled"):
        hub.list_files("someone/some-model", kind)
    with pytest.raises(hub.OutOfReach):
        hub.fetch("someone/some-model", "config.json", kind)


COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs: a repository of two files, of which one is large."""

    files: ClassVar = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"pickle"}
    sent: ClassVar[dict[str, bytes]] = {}  # instead of what is told
    asked: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.asked.append(self.path)
        name = self.path.rpartition("/")[2]
        known, content = self.files.get(name, b""), self.sent.get(name, self.files.get(name, b""))
        sha256 = hashlib.sha256(known).hexdigest()
        if self.path.startswith("/api/"):
            large = {"sha256": hashlib.sha256(self.files["model.safetensors"]).hexdigest(), "size": 7, "pointerSize": 1}
            siblings = [{"rfilename": name, **({"lfs": large} if "model" in name else {})} for name in self.files]
            content = json.dumps({"id": "someone/some-model", "sha": COMMIT, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{sha256}"')
        self.end_headers()
        return content

    def do_GET(self):
        self.wfile.write(self.do_HEAD())

    def log_message(self, *_):
        pass


@pytest.fixture
def online(monkeypatch, tmp_path):
    """A hub of this machine; what `sent` names is sent instead of what the hub tells of."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    place = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", place)
    template = place + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(Hub, "sent", {})
    monkeypatch.setattr(Hub, "asked", [])
    hub.list_files.cache_clear()
    yield Hub
    hub.list_files.cache_clear()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_that_came_as_the_hub_tells_is_kept(online):
    for _ in range(2):
        assert hub.fetch("someone/some-model", "model.safetensors").read_bytes() == b"weights"
        assert hub.fetch("someone/some-model", "config.json").read_bytes() == b"{}"


def test_a_file_of_another_checksum_is_refused_and_removed(online):
    online.sent["model.safetensors"] = b"Weights"  # as long: the hub's client looks at the size alone
    checkpoint = Checkpoint("someone/some-model", ways_out="a folder")
    for _ in range(2):
        with pytest.raises(UserError, match=r"model\.safetensors came with another SHA-256.*try again.*give a folder"):
            checkpoint.weight_files()
    online.sent.clear()
    assert checkpoint.weight_files()[0].read_bytes() == b"weights"


def test_a_checksum_is_computed_once(online, monkeypatch):
    hub.fetch("someone/some-model", "model.safetensors")
    monkeypatch.setattr(hub.hashlib, "file_digest", lambda *_: pytest.fail("computed again"))
    hub.fetch("someone/some-model", "model.safetensors")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling.py", "weights.pkl", "model.pt", "tf_model.h5"])
def test_pickles_and_code_are_not_fetched(name, online):
    with pytest.raises(hub.OutOfReach, match="which are not fetched"):
        hub.fetch("someone/some-model", name)
    assert not online.asked


@pytest.mark.parametrize(("revision", "asked"), [("", "main"), ("@v1.0", "v1.0"), (f"@{COMMIT}", COMMIT)])
def test_the_revision_that_is_named_is_taken(revision, asked, online):
    Checkpoint(f"someone/some-model{revision}", ways_out="").weight_files()
    assert f"/someone/some-model/resolve/{asked}/model.safetensors" in online.asked
    assert not [path for path in online.asked if "/resolve/" in path and asked not in path]


def test_the_defaults_are_pinned_to_commits(online):
    assert hub.PINNED.keys() == {clip.DEFAULT, bert.DEFAULT}
    for name, commit in hub.PINNED.items():
        assert len(bytes.fromhex(commit)) == 20
        Checkpoint(name, ways_out="").required("config.json")
        assert f"/{name}/resolve/{commit}/config.json" in online.asked
        Checkpoint(f"{name}@main", ways_out="").required("config.json")
        assert f"/{name}/resolve/main/config.json" in online.asked


def test_no_telemetry(online):
    from huggingface_hub import constants

    assert constants.HF_HUB_DISABLE_TELEMETRY
