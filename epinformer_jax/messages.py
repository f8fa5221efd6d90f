"""Which log lines reach the screen: ours, and others' only from WARNING on.

Checkpoint and data libraries share absl's logger with us and report every file they open.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_OURS = tuple(str(_ROOT / package) for package in ("epinformer_jax", "data_prep"))


def is_ours_or_warns(record: logging.LogRecord) -> bool:
    """Whether a line is worth the screen; a filter for logging handlers."""
    return record.levelno >= logging.WARNING or record.pathname.startswith(_OURS)


@contextlib.contextmanager
def on_stderr() -> Iterator[None]:
    """Inside, absl's log goes to stderr, a line an event: what a command shows."""
    logger = logging.getLogger("absl")
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


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = " ".join(record.getMessage().split())
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return level + line
