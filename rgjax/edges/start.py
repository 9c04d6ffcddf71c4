"""Guards a command from its first import on.

`rgjax/__init__.py` imports this before anything else.
Where rgjax is used as a library, signals and streams stay as they are.
"""

from rgjax.edges import hold, signals, streams  # in this order


def guard_command() -> None:
    """Guard this process, which is a command, against signals and its streams."""
    signals.guard()
    hold.hold(False)
    streams.repair()
    signals.watch()


if hold.is_command():
    guard_command()
