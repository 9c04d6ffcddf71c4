"""SIGTERM, in processes of their own."""

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import sys, time
from rgjax import preemption
from rgjax.errors import told_in_one_line
preemption.GRACE = 1.0
console.listen_for_sigterm()
with told_in_one_line(interrupted="; go on"):
    {body}
"""
ANYWHERE = "print('ready', flush=True); time.sleep(60)"
TRAINING = """
    with console.deferring_sigterm():
        print('ready', flush=True)
        while not console.sigterm_requested():
            time.sleep(0.01)
        print('saved', flush=True)
    print('never')
"""
# hashlib lets other threads run, and no signal handler, as a compiler does.
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
    ("body", "out", "says"),
    [
        (ANYWHERE, "", "ended by SIGTERM; go on"),
        (TRAINING, "saved\n", "ended by SIGTERM; go on"),
        (IN_NATIVE_CODE, "", "ended at once"),
    ],
)
def test_sigterm_ends_a_command_wherever_it_is(body, out, says):
    code, printed, err, seconds = after_sigterm(body)
    assert code == 143
    assert printed == out
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert seconds < 10
