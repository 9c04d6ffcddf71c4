"""The hub: its cache offline, allowed files, checksums and revisions, against a server on this machine."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from rgjax.encoders.factory import DEFAULT_CLIP
from rgjax.errors import UserError
from rgjax.models.pretrained import DEFAULT_BERT, Checkpoint
from rgjax.storage import hub


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and a private cache; huggingface_hub reads both settings when it is imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub._listed.cache_clear()
    yield tmp_path
    hub._listed.cache_clear()


def test_cache_is_used_offline(offline):
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
def test_uncached_repository_offline_is_out_of_reach(kind, offline):
    with pytest.raises(hub.OutOfReach, match="OfflineModeIsEnabled"):
        hub.list_files("someone/some-model", kind)
    with pytest.raises(hub.OutOfReach):
        hub.fetch("someone/some-model", "config.json", kind)


COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs: one repository, in which model.safetensors is large."""

    files: ClassVar = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"pickle"}
    sent: ClassVar[dict[str, bytes]] = {}  # in place of `files`
    asked: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.asked.append(self.path)
        name = self.path.rpartition("/")[2]
        recorded = self.files.get(name, b"")
        content, sha256 = self.sent.get(name, recorded), hashlib.sha256(recorded).hexdigest()
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
    """A hub on this machine; it sends the content in `sent` under the checksum of that in `files`."""
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
    hub._listed.cache_clear()
    yield Hub
    hub._listed.cache_clear()
    server.shutdown()
    server.server_close()
    thread.join()


def test_download_with_the_right_checksum_is_kept(online):
    for _ in range(2):
        assert hub.fetch("someone/some-model", "model.safetensors").read_bytes() == b"weights"
        assert hub.fetch("someone/some-model", "config.json").read_bytes() == b"{}"


def test_download_with_a_wrong_checksum_is_refused_and_removed(online):
    online.sent["model.safetensors"] = b"Weights"  # of equal length: the hub's client checks the size only
    checkpoint = Checkpoint("someone/some-model", ways_out="a folder")
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"model\.safetensors arrived with another SHA-256.*try again.*give a folder"
        ):
            checkpoint.weight_files()
    online.sent.clear()
    assert checkpoint.weight_files()[0].read_bytes() == b"weights"


def test_checksum_is_computed_once(online, monkeypatch):
    hub.fetch("someone/some-model", "model.safetensors")
    monkeypatch.setattr(hub, "file_sha256", lambda *_: pytest.fail("computed again"))
    hub.fetch("someone/some-model", "model.safetensors")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling.py", "weights.pkl", "model.pt", "tf_model.h5"])
def test_pickles_and_code_are_not_fetched(name, online):
    with pytest.raises(hub.OutOfReach, match="which are not fetched"):
        hub.fetch("someone/some-model", name)
    assert not online.asked


@pytest.mark.parametrize(("revision", "asked"), [("", "main"), ("@v1.0", "v1.0"), (f"@{COMMIT}", COMMIT)])
def test_named_revision_is_requested(revision, asked, online):
    Checkpoint(f"someone/some-model{revision}", ways_out="").weight_files()
    assert f"/someone/some-model/resolve/{asked}/model.safetensors" in online.asked
    assert not [path for path in online.asked if "/resolve/" in path and asked not in path]


def test_defaults_are_pinned_to_commits(online):
    assert hub.PINNED.keys() == {DEFAULT_CLIP, DEFAULT_BERT}
    for name, commit in hub.PINNED.items():
        assert len(bytes.fromhex(commit)) == 20
        Checkpoint(name, ways_out="").required("config.json")
        assert f"/{name}/resolve/{commit}/config.json" in online.asked
        Checkpoint(f"{name}@main", ways_out="").required("config.json")
        assert f"/{name}/resolve/main/config.json" in online.asked


def test_telemetry_is_off(online):
    from huggingface_hub import constants

    assert constants.HF_HUB_DISABLE_TELEMETRY


@pytest.mark.parametrize(
    ("code", "header", "message"),
    [
        (404, "RepoNotFound", "the hub has no such repository; if it is private, log in"),
        (401, "", "the hub refuses it: log in"),
        (403, "GatedRepo", "it is gated on the hub: accept its terms at https://huggingface.co/someone/some-model and"),
        (404, "RevisionNotFound", "the hub has no revision 'v9' of it"),
    ],
)
def test_refusal_of_the_hub_is_one_line_and_not_repeated(code, header, message, online, monkeypatch):
    def refuse(self):
        self.asked.append(self.path)
        self.send_response(code)
        self.send_header("X-Error-Code", header)
        self.send_header("Content-Length", "0")
        self.end_headers()

    monkeypatch.setattr(Hub, "do_GET", refuse)
    for _ in range(2):
        with pytest.raises(UserError, match=rf"'someone/some-model@v9' is not .* {message}.*: give a folder"):
            Checkpoint("someone/some-model@v9", ways_out="a folder").json("config.json")
    assert len(online.asked) == 1


def test_identity_names_the_commit(online):
    identity = Checkpoint("someone/some-model@v1.0", ways_out="").identity()
    assert identity == {"checkpoint": "someone/some-model@v1.0", "revision": COMMIT}
