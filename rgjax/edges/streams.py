"""Standard streams that are there, accept any text, and never break a command."""

import io
import os
import sys


class ReaderGone(BrokenPipeError):
    """The reader of standard output, such as `head`, has ended."""


class _Output(io.FileIO):
    """Standard output: its first failure is raised, by name; what follows is dropped."""

    failed = False

    def write(self, data, /):
        if self.failed:
            return len(data)
        try:
            return super().write(data)
        except BrokenPipeError as error:
            self.failed = True
            raise ReaderGone(*error.args) from error
        except OSError as error:
            self.failed, error.filename = True, "standard output"
            raise


class _Messages(io.FileIO):
    """Standard error: no message is worth the end of a run."""

    def write(self, data, /):
        try:
            return super().write(data)
        except OSError:
            return len(data)


def repair() -> None:
    """Make the standard streams of this process safe."""
    _open_closed()
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Messages(2, "w", closefd=False), sys.stderr)


def _open_closed() -> None:
    """Open the null device in place of each standard stream that is closed.

    Else the next file that is opened would be taken for the stream.
    """
    handle = os.open(os.devnull, os.O_RDWR)
    while handle <= 2:
        os.set_inheritable(handle, True)
        handle = os.open(os.devnull, os.O_RDWR)
    os.close(handle)


def _text(raw: io.FileIO, before) -> io.TextIOWrapper:
    """A text stream like the one before; what its encoding lacks becomes \\uXXXX."""
    unbuffered = getattr(before, "write_through", False)
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),  # type: ignore[arg-type]  # as Python does with -u
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=raw.isatty() or isinstance(raw, _Messages),
        write_through=unbuffered,
    )
