"""Peak memory of one training step at batch 16, as growth of resident memory in its own process.

    python -m tests.benchmarks.memory SETTING WAY BATCH     (run by the benchmark)

WAY is `reference`, or one of ours; ours runs the largest batch of the stream. Counts from the moment before the first step, when imports, weights, batch and, on our side, the
compiled program (of the program's own cache where it is there) are in place. Linux only.
"""

import ctypes
import gc
import json
import os
import pathlib
import sys
import threading
import time

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


def step_of(setting: Setting, way: str, batch: int):
    """A training step that has been prepared, not run."""
    if way == REFERENCE:
        from tests.benchmarks import reference

        return reference.train(setting, batch=batch).run
    from tests.benchmarks import expression

    return expression.compiled_step(setting, batch=batch, tables=OURS[way])


def main() -> None:
    """Runs one step and prints its growth as JSON."""
    text, way, batch = sys.argv[1:]
    run = step_of(Setting.from_text(text), way, int(batch))
    with Peak() as peak:
        loss = run(0)
    print(json.dumps({"before": peak.before, "growth": peak.growth, "loss": loss}))


if __name__ == "__main__":
    main()
