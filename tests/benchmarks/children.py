"""Worker processes: one for each side, under the allocator that is asked for."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from tests.benchmarks.rounds import Disagreement

ROOT = pathlib.Path(__file__).resolve().parents[2]
# GLIBC_TUNABLES is read when a process starts, so each setting needs processes of its own.
ALLOCATORS = {"hugetlb": "glibc.malloc.hugetlb=1", "default": None}
# For numbers alone: programs are compiled in half the time and are slower.
QUICK_COMPILATION = "--xla_cpu_use_fusion_emitters=false"
COMPILATION_CACHE = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
}


def environment(
    allocator: str, *, threads: int, cache: pathlib.Path, platform: str = "cpu"
) -> dict[str, str]:
    """The environment of a process under this allocator; compiled programs are shared by all.

    `platform` is JAX's, "" for whatever it finds.
    """
    found = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GLIBC_TUNABLES", "XLA_FLAGS", "LD_PRELOAD")
    }
    if ALLOCATORS[allocator]:
        found["GLIBC_TUNABLES"] = ALLOCATORS[allocator]
    found |= {"JAX_PLATFORMS": platform, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    return found | COMPILATION_CACHE | {"JAX_COMPILATION_CACHE_DIR": str(cache)}


class Worker:
    """A process that prepares and runs contenders; see child.py."""

    def __init__(self, side: str, setting: dict[str, str | int], env: dict[str, str]):
        self.side = side
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.child", side, json.dumps(setting)],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for the answer.

        Raises:
          RuntimeError: the process failed or is gone; holds what it said.
        """
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            hint = " (out of memory?)" if status == -9 else ""
            raise RuntimeError(f"the {self.side} process ended with status {status}{hint}")
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"the {self.side} process failed:\n{reply['error']}")
        return reply

    def kill(self) -> None:
        """Ends the process at once, whatever it does."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Ends the process."""
        if self._process.poll() is None:
            self._process.stdin.close()
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def workers(
    sides: tuple[str, ...], setting: dict[str, str | int], env: dict[str, str]
) -> Iterator[dict[str, Worker]]:
    """One worker for each side; all end with the block."""
    started = {side: Worker(side, setting, env) for side in sides}
    try:
        yield started
    except BaseException:  # an interrupt, say: nobody waits for what they are at
        for worker in started.values():
            worker.kill()
        raise
    finally:
        for worker in started.values():
            worker.close()


def once(module: str, *arguments: str, env: dict[str, str]) -> dict[str, Any]:
    """Runs `python -m module arguments` and returns the JSON of its last line of output.

    Raises:
      Disagreement: it exited with status 3 (its last line says where).
      RuntimeError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    last = done.stdout.strip().rpartition("\n")[2]
    if done.returncode == 3:
        raise Disagreement(last)
    if done.returncode:
        raise RuntimeError(f"python -m {module} ended with status {done.returncode}: {last}")
    return json.loads(last)
