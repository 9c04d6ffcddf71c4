"""SIGINT and SIGTERM in processes of their own: one line and an exit code, whatever happens to the exception."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rgjax.edges.hold import SCRIPTS

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, time
from rgjax.edges import signals, start
signals.GRACE, signals._PATIENCE = 1.0, 0.5
start.guard_command()
from rgjax import console
console.configure_logging()
ready = lambda: print('ready', flush=True)
with console.exit_codes(interrupted="; rerun"):
    {body}
print("went on", file=sys.stderr)
"""
SLEEPING = "ready(); time.sleep(60)"
TRAINING = """
    with console.deferring_sigterm():
        ready()
        while not console.sigterm_requested():
            time.sleep(0.01)
        print('saved', flush=True)
    print('never')
"""
# Like a compiler, hashlib lets other threads run but no signal handler.
IN_NATIVE_CODE = "import hashlib; ready(); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
SWALLOWED = """
    ready()
    for _ in range(600):
        try:
            time.sleep(0.1)
        except BaseException:
            pass
"""
SUPPRESSED = """
    import contextlib
    ready()
    with contextlib.suppress(KeyboardInterrupt, signals.Preempted):
        time.sleep(60)
    time.sleep(60)
"""
IN_A_DESTRUCTOR = """
    class Slow:
        def __del__(self):
            ready()
            time.sleep(60)
    Slow()
    time.sleep(60)
"""
IN_A_CALLBACK = """
    import weakref
    class Thing: pass
    thing = Thing()
    watch = weakref.ref(thing, lambda _: (ready(), time.sleep(60)))
    del thing
    time.sleep(60)
"""
IN_AN_IMPORT = """
    import pathlib, tempfile
    folder = tempfile.mkdtemp()
    pathlib.Path(folder, "slow_module.py").write_text(
        "import time\\ntry:\\n    print('ready', flush=True); time.sleep(60)\\n"
        "finally:\\n    print('an exception was raised', flush=True)"
    )
    sys.path.append(folder)
    import slow_module
"""
CONVERTED = """
    try:
        ready()
        time.sleep(60)
    except BaseException as error:
        raise ImportError("a library failed to load") from error
"""
CLEANING_UP = """
    try:
        ready()
        time.sleep(60)
    finally:
        time.sleep(0.2)
        print('closed', flush=True)
"""
STUCK_IN_CLEANING_UP = """
    try:
        ready()
        time.sleep(60)
    finally:
        time.sleep(60)
"""
KEPT_BUT_IGNORED = """
    kept = []
    ready()
    for _ in range(600):
        try:
            time.sleep(0.1)
        except BaseException as error:
            kept.append(error)
"""
STATES = {
    "sleeping": (SLEEPING, ""),
    "swallowed": (SWALLOWED, ""),
    "suppressed": (SUPPRESSED, ""),
    "in a destructor": (IN_A_DESTRUCTOR, ""),
    "in a callback": (IN_A_CALLBACK, ""),
    "converted": (CONVERTED, ""),
    "in an import": (IN_AN_IMPORT, ""),
    "cleaning up": (CLEANING_UP, "closed\n"),
}


def start(body):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background ignores it
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    return process


def after(number, body):
    """Exit code, output, errors, and seconds from the signal to the end."""
    process = start(body)
    sent = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err, time.monotonic() - sent


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    ("number", "line"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "stopped by SIGTERM")], ids=["INT", "TERM"]
)
def test_a_signal_ends_a_command_in_any_state_with_one_line(number, line, state):
    body, out = STATES[state]
    code, printed, err, seconds = after(number, body)
    assert (code, printed, err) == (128 + number, out, f"rgjax: {line}; rerun\n")
    assert seconds < 10


@pytest.mark.parametrize("body", [IN_NATIVE_CODE, STUCK_IN_CLEANING_UP, KEPT_BUT_IGNORED])
def test_a_command_that_does_not_end_is_ended(body):
    code, _, err, seconds = after(signal.SIGINT, body)
    assert (code, err) == (130, "rgjax: interrupted; rerun\n")
    assert seconds < 10


def test_a_second_ctrl_c_ends_at_once():
    process = start(STUCK_IN_CLEANING_UP.replace("time.sleep(60)", "time.sleep(0.7); time.sleep(60)"))
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "rgjax: interrupted; rerun\n")
    assert time.monotonic() - sent < 0.6


def test_sigterm_lets_training_save_even_if_it_arrives_twice():
    process = start(TRAINING.replace("print('saved'", "time.sleep(0.3); print('saved'"))
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (143, "saved\n", "rgjax: stopped by SIGTERM; rerun\n")


def test_sigterm_in_native_code_is_forced():
    code, _, err, _ = after(signal.SIGTERM, IN_NATIVE_CODE)
    assert code == 143
    assert err == "rgjax: SIGTERM: forced to end, because 1 s were not enough to save\n"


def ran(code, *words):
    return subprocess.run([sys.executable, *words, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout.strip()


def test_the_library_leaves_signals_and_streams_alone():
    code = (
        "import signal, sys; before = [sys.stdout, sys.stderr, sys.excepthook, *map(signal.getsignal, (2, 15))]; "
        "import rgjax, rgjax.console, rgjax.regroup; "
        "print(before == [sys.stdout, sys.stderr, sys.excepthook, *map(signal.getsignal, (2, 15))])"
    )
    assert ran(code) == "True"


@pytest.mark.parametrize(
    ("argv", "orig_argv", "command"),
    [
        (["-m", "--help"], ["python", "-m", "rgjax.main", "--help"], True),
        (["-m"], ["python", "-X", "dev", "-um", "rgjax.sweep.worker"], True),
        (["-m", "rgjax.main"], ["python", "-m", "pytest", "rgjax.main"], False),
        (["-m"], ["python", "-m", "rgjax_tools.main"], False),
        (["/bin/rgjax-train", "a"], ["/bin/python", "/bin/rgjax-train", "a"], True),
        (["rgjax-train.py"], ["python", "rgjax-train.py"], False),
        (["/bin/rgjax-train"], ["python", "-c", "from multiprocessing.spawn import spawn_main; ..."], False),
        (["-c"], ["python", "-c", "import rgjax"], False),
        ([""], ["python"], False),
    ],
)
def test_commands_are_known_by_how_they_were_called(argv, orig_argv, command, monkeypatch):
    from rgjax.edges import hold

    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    assert hold.is_command() == command


def test_all_installed_scripts_are_known():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["scripts"]) == SCRIPTS


def test_a_signal_that_is_ignored_stays_ignored():
    code = (
        "import os, signal; signal.signal(2, signal.SIG_IGN); from rgjax.edges.start import guard_command; "
        "guard_command(); os.kill(os.getpid(), 2); print('went on')"
    )
    assert ran(code) == "went on"
