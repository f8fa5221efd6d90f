"""What reaches the screen: of log lines ours, and others' only from WARNING on; of wrong arguments
one line.

Checkpoint and data libraries share absl's logger with us and report every file they open.
"""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from absl import logging as absl_logging

_ROOT = Path(__file__).resolve().parent.parent
_OURS = tuple(str(_ROOT / package) for package in ("epinformer_jax", "data_prep"))


def is_ours_or_warns(record: logging.LogRecord) -> bool:
    """Whether a line is worth the screen; a filter for logging handlers."""
    return record.levelno >= logging.WARNING or record.pathname.startswith(_OURS)


@contextlib.contextmanager
def on_stderr() -> Iterator[None]:
    """Inside, absl's log goes to stderr, a line an event: what a command shows."""
    logger = absl_logging.get_absl_logger()  # its first import would set the level anew
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(is_ours_or_warns)
    handler.setFormatter(_OneLine())
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # else a handler of the root, which libraries may add, shows all again
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def parser(prog: str, description: str) -> argparse.ArgumentParser:
    """A command's parser; a wrong argument is answered with one line and exit code 2."""
    return _Parser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Says what is wrong; of a value that begins with -, how it is given."""
        if message.endswith("expected one argument"):
            option = message.split()[1].rstrip(":")
            message += f"; one that begins with - is joined to it: {option}='-...'"
        self.exit(2, f"error: {' '.join(message.split())} ({self.prog} --help)\n")


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = " ".join(record.getMessage().split())
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return level + line
