"""SIGTERM, by which schedulers announce that a machine is taken away: training saves and ends, all else ends at once.

Files are whole or absent at any moment, so ending at once loses no more than the work since the last of them.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator

from rgjax.errors import Preempted, tell

GRACE = 9.0  # seconds; Slurm and Kubernetes give 30 at least, a spot machine some of its own

_asked, _training = threading.Event(), threading.Event()


def listen() -> None:
    """From now on SIGTERM raises Preempted in the main thread, but within `saving`, whose code is to ask `asked`.

    Where the main thread does not come to it in time, as it may wait for a compiler or a device, the process ends.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    # A thread of its own, as Python's handlers wait until the main thread returns from native code.
    def watch(ours: socket.socket, _: socket.socket) -> None:
        while signal.SIGTERM not in ours.recv(1):
            pass
        _asked.set()
        threading.Event().wait(GRACE)
        tell(f"SIGTERM: ended at once, as {GRACE:g} s were not enough to end well")
        os._exit(128 + signal.SIGTERM)

    def handle(number, frame) -> None:
        _asked.set()
        if not _training.is_set():
            raise Preempted

    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=watch, args=(ours, theirs), daemon=True).start()
    signal.signal(signal.SIGTERM, handle)


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """A block that ends by itself, soon after `asked`."""
    _training.set()
    try:
        yield
    finally:
        _training.clear()
    if asked():
        raise Preempted


def asked() -> bool:
    return _asked.is_set()


def ask() -> None:
    """As SIGTERM does within `saving`."""
    _asked.set()
