"""Nothing leaves the machine unless the user asks for it: runs neither connect to hosts nor look up names."""

import socket
import sys

import pytest

from rgjax.data import load_data
from rgjax.storage import hub
from tests.support.data import data_config
from tests.support.finished import finish, finish_untrained, text_in

_watched: list[list[str]] = []


def _hook(event: str, arguments: tuple) -> None:
    """While a test watches, record and forbid the audit events of network access."""
    if not _watched or not event.startswith(
        ("socket.connect", "socket.getaddrinfo", "socket.gethostby", "socket.sendto")
    ):
        return
    place = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
    if isinstance(place, (str, bytes)) and event == "socket.connect":  # a socket in the file system
        return
    if (place[0] if isinstance(place, tuple) else place) in ("127.0.0.1", "::1", "localhost"):
        return
    _watched[-1].append(f"{event}: {place}")
    raise OSError(f"the test forbids {event}: {place}")


sys.addaudithook(_hook)  # cannot be removed


@pytest.fixture
def attempts():
    """The attempts to reach another machine, all of which fail."""
    _watched.append([])
    yield _watched[-1]
    _watched.pop()


@pytest.mark.long
def test_a_run_reaches_no_network(attempts, tmp_path):
    finish(tmp_path, "la", **{"loss.posthoc": True, "loss.tau": 2.0})  # the program of test_predictor, from the cache
    assert not attempts


def test_a_text_run_with_local_weights_reaches_no_network(attempts, tmp_path):
    finish_untrained(tmp_path / "run", "rg", **text_in(tmp_path))
    assert not attempts


def test_a_local_download_is_prepared_without_network(attempts, ham_download, phrasebank_download, tmp_path):
    prepared = str(tmp_path / "prepared")
    load_data(data_config("ham10000", image_size=16, manual_dir=str(ham_download), data_dir=prepared))
    load_data(data_config("phrasebank", manual_dir=str(phrasebank_download)))
    assert not attempts


def test_requests_to_the_hub_are_detected(attempts):
    with pytest.raises(hub.OutOfReach):
        hub.list_files("someone/another-model")
    assert any("huggingface.co" in attempt for attempt in attempts)


def test_plain_sockets_are_detected(attempts):
    with socket.socket() as plain, pytest.raises(OSError, match="forbids"):
        plain.connect(("192.0.2.1", 80))
    with socket.socket(type=socket.SOCK_DGRAM) as plain, pytest.raises(OSError, match="forbids"):
        plain.sendto(b"", ("192.0.2.1", 53))
    with pytest.raises(OSError, match="forbids"):
        socket.getaddrinfo("example.org", 80)
    assert len(attempts) == 3
