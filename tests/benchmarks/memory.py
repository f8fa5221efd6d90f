"""Peak memory of one training step at batch 16, as growth of resident memory in its own process.

    python -m tests.benchmarks.memory SETTING WAY BATCH     (run by the benchmark)

WAY is `reference`, or one of ours; ours runs the stream's batch of median size, then its largest.
Counts from the moment before the first step, when imports, weights, batch and, on our side, the
compiled programs are in place. Linux only.
"""

import ctypes
import gc
import json
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable

from tests.benchmarks.setting import Setting

REFERENCE = "reference"
OURS = {"packed": False, "8-mer tables": True}  # our ways -> whether the step makes tables
POLL_S = 0.002
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Resident bytes of this process now."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * PAGE


class Peak:
    """The largest resident memory while the block runs: the kernel's own mark where it may be set
    back, else by looking every 2 ms.
    """

    def __enter__(self) -> "Peak":
        gc.collect()
        if hasattr(ctypes.CDLL(None), "malloc_trim"):
            ctypes.CDLL(None).malloc_trim(0)
        self.before = self.largest = resident()
        self._has_mark = _reset_mark()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.is_set():
            self.largest = max(self.largest, resident())
            time.sleep(POLL_S)

    def __exit__(self, *_) -> None:
        self._done.set()
        self._thread.join()
        if self._has_mark:
            self.largest = max(self.largest, _mark())

    @property
    def growth(self) -> int:
        """Bytes above what was resident at the beginning."""
        return self.largest - self.before


def _reset_mark() -> bool:
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _mark() -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def steps_of(setting: Setting, way: str, batch: int) -> dict[str, Callable[[], object]]:
    """Training steps that have been prepared, not run, by the size of their batch."""
    if way == REFERENCE:
        from tests.benchmarks import reference

        prepared = reference.train(setting, batch=batch)
        return {"usual": lambda: prepared.run(0)}
    from tests.benchmarks import expression

    return expression.compiled_steps(setting, batch=batch, tables=OURS[way])


def main() -> None:
    """Runs the steps and prints their growth as JSON."""
    text, way, batch = sys.argv[1:]
    steps = steps_of(Setting.from_text(text), way, int(batch))
    growth, before = {}, None
    for size, step in steps.items():
        with Peak() as peak:
            step()
        before = peak.before if before is None else before
        growth[size] = peak.largest - before
    print(json.dumps({"before": before, "growth": growth}))


if __name__ == "__main__":
    main()
