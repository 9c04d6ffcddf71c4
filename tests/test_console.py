"""Tables and progress bars; SIGTERM in processes of their own."""

import itertools
import signal
import subprocess
import sys
import time

import pytest

from rgjax.console import progress, table


def test_a_table_is_aligned_by_its_widest_cells():
    rows = [("class", "n", "note"), ("a", 10, None), ("longer", 7), ("b", None, "see")]
    assert table(rows, "<><").splitlines() == [
        "  class    n  note",
        "  a       10",
        "  longer   7",
        "  b           see",
    ]


def test_progress_writes_fewer_lines_to_a_log_than_to_a_terminal(capsys, monkeypatch):
    def lines_drawn():
        bar = progress(what="train", total=40, unit="step")
        seconds = itertools.count(bar.start_t)
        bar._time = lambda: next(seconds)
        for _ in range(40):
            bar.update()
        bar.close()
        return capsys.readouterr().err.count("train")

    in_log = lines_drawn()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert in_log < lines_drawn() / 3


PROGRAM = """
import sys, time
from rgjax import console
console.GRACE = 1.0
console.configure_logging()
console.listen_for_sigterm()
with console.exit_codes(interrupted="; rerun"):
    {body}
"""
SLEEPING = "print('ready', flush=True); time.sleep(60)"
TRAINING = """
    with console.deferring_sigterm():
        print('ready', flush=True)
        while not console.sigterm_requested():
            time.sleep(0.01)
        print('saved', flush=True)
    print('never')
"""
# Like a compiler, hashlib lets other threads run but no signal handler.
IN_NATIVE_CODE = "import hashlib; print('ready', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"


def after_sigterm(body):
    """Exit code, output, errors, and seconds from the signal to the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err, time.monotonic() - sent


@pytest.mark.parametrize(
    ("body", "out", "message"),
    [
        (SLEEPING, "", "stopped by SIGTERM; rerun"),
        (TRAINING, "saved\n", "stopped by SIGTERM; rerun"),
        (IN_NATIVE_CODE, "", "SIGTERM: forced to end"),
    ],
    ids=["sleeping", "training", "in native code"],
)
def test_sigterm_ends_a_command_in_any_state(body, out, message):
    code, printed, err, seconds = after_sigterm(body)
    assert code == 143
    assert printed == out
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert seconds < 10
