"""Nothing leaves this machine unless it is asked for: no run connects to anything, or looks up a name."""

import socket
import sys

import pytest

from rgjax.data import load_data
from rgjax.storage import hub
from tests.support.finished import config_of, finish, finish_untrained, text_in

_watched: list[list[str]] = []


def _hook(event: str, arguments: tuple) -> None:
    """Records and forbids, while a list is there to record in, what Python tells of the network."""
    if not _watched or not event.startswith(
        ("socket.connect", "socket.getaddrinfo", "socket.gethostby", "socket.sendto")
    ):
        return
    place = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
    if isinstance(place, (str, bytes)) and event == "socket.connect":  # a socket of this machine's file system
        return
    if (place[0] if isinstance(place, tuple) else place) in ("127.0.0.1", "::1", "localhost"):
        return
    _watched[-1].append(f"{event}: {place}")
    raise OSError(f"the test forbids {event}: {place}")


sys.addaudithook(_hook)  # cannot be removed


@pytest.fixture
def attempts():
    """The attempts to reach another machine; all fail."""
    _watched.append([])
    yield _watched[-1]
    _watched.pop()


def test_a_run_reaches_no_network(attempts, tmp_path):
    finish(tmp_path, "la", **{"loss.posthoc": True, "loss.tau": 2.0})  # as in test_predictor: its program is kept
    assert not attempts


def test_a_run_of_sentences_with_its_weights_here_reaches_no_network(attempts, tmp_path):
    finish_untrained(tmp_path / "run", "rg", **text_in(tmp_path))
    assert not attempts


def test_a_download_that_is_here_is_prepared_without_network(attempts, ham_download, phrasebank_download, tmp_path):
    for name, folder in (("ham10000", ham_download), ("phrasebank", phrasebank_download)):
        changes = {"data.name": name, "data.manual_dir": str(folder), "data.data_dir": str(tmp_path / "prepared")}
        load_data(config_of("ce", **changes | {"data.split": "grouped", "data.positive": ""}).data)
    assert not attempts


def test_what_asks_for_the_hub_is_seen(attempts):
    with pytest.raises(hub.OutOfReach):
        hub.list_files("someone/another-model")
    assert any("huggingface.co" in attempt for attempt in attempts)


def test_plain_sockets_are_seen(attempts):
    with socket.socket() as plain, pytest.raises(OSError, match="forbids"):
        plain.connect(("192.0.2.1", 80))
    with socket.socket(type=socket.SOCK_DGRAM) as plain, pytest.raises(OSError, match="forbids"):
        plain.sendto(b"", ("192.0.2.1", 53))
    with pytest.raises(OSError, match="forbids"):
        socket.getaddrinfo("example.org", 80)
    assert len(attempts) == 3
