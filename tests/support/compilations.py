"""Which programs JAX compiles."""

import contextlib
import logging
import re

import jax


@contextlib.contextmanager
def compiled_programs():
    """A list that fills up with the names of the programs that are traced and compiled within."""
    names: list[str] = []

    class Recorder(logging.Handler):
        def emit(self, record):
            if match := re.match(r"Compiling (?:jit\()?([\w<>]+)", record.getMessage()):
                names.append(match[1])

    logger, recorder = logging.getLogger("jax"), Recorder()
    logger.addHandler(recorder)
    try:
        with jax.log_compiles():
            yield names
    finally:
        logger.removeHandler(recorder)
