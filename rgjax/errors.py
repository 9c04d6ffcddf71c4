"""The error that a user can cause."""


class UserError(Exception):
    """What the user gave is wrong: one line that names the field, file or row, and the way out. Exit code 2."""
