"""Progress of long work on screen or in a log: by one process, and readable when folds share it."""

import sys

from tqdm import tqdm

from epinformer_jax.train import distributed

LOG_EVERY_SECONDS = 60.0  # a log file wants few lines


def progress_bar(name: str, total: int, unit: str, *, done: int = 0) -> tqdm:
    """A bar for `total` units of which `done` are; close it, or use it in a `with`."""
    on_screen = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        desc=name,
        unit=unit,
        dynamic_ncols=True,
        disable=not distributed.is_lead(),
        mininterval=1.0 if on_screen else LOG_EVERY_SECONDS,
        # several have a line each on a screen; the codes that move between them spoil a log
        position=None if on_screen else 0,
    )
