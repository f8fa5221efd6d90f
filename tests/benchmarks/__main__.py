"""Measures speed and memory beside a PyTorch reference; prints a table, writes JSON and HTML.

    make bench                                   everything, in at most 20 minutes
    make bench ARGS='--quick'                    ten minutes and more: fewer runs, one allocator
    python -m tests.benchmarks --only train_16 --seconds 60

Lines are measured with huge pages first, then, as far as time allows, under the default allocator,
those with a target there before the others; what is left out is named.

Needs PyTorch (`make parity` or `make bench` installs it) and, for K562's real occupancy and the
published weights, ../shared/data; without it genes are made up and weights drawn at random, and the
report says so. Exit status: 0, or 1 where numbers disagreed or something failed. A missed target is
said, not punished: times depend on the machine.
"""

import argparse
import json
import os
import pathlib
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from epinformer_jax.data.atomic import atomic_file
from tests.benchmarks import children, disk, measure, memory, occupancy, report
from tests.benchmarks.rounds import Disagreement
from tests.benchmarks.table import LINES, Line

DATA = children.ROOT.parent / "shared" / "data"
EXTRAS = ("memory", "disk", "sweep", "accelerator")  # methods of Bench
SIDES = ("reference", "ours")
MEMORY_BATCH, MEMORY_SHARE = 16, 1 / 5
DISK_GENES = 4000
QUICK_SECONDS = 5.0


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [line.name for line in LINES] + list(EXTRAS)
    add = made.add_argument
    add(
        "--quick",
        action="store_true",
        help="fewer runs, huge pages only, no sweep: ten minutes and more, most of it compiling",
    )
    add(
        "--only",
        action="append",
        choices=names,
        metavar="NAME",
        help=f"a line, more than once for several: {', '.join(names)}",
    )
    add(
        "--seconds",
        type=float,
        default=12.0,
        help="of measuring for each line, beyond what it needs at least (default: %(default)s)",
    )
    add(
        "--minutes",
        type=float,
        default=20.0,
        help="for everything; lines get less when time runs short (default: %(default)s)",
    )
    add("--allocator", choices=("both", *children.ALLOCATORS), default="both")
    add("--threads", type=int, default=2, help="CPUs of each side (default: %(default)s)")
    add(
        "--data", type=pathlib.Path, default=DATA, help="folder of real data (default: %(default)s)"
    )
    add("--out", type=pathlib.Path, default=pathlib.Path("runs/bench"), help="default: %(default)s")
    return made


def machine(threads: int) -> dict[str, Any]:
    """What the times depend on."""
    model = platform.processor() or platform.machine()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
        pages = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text().strip()
    except (OSError, StopIteration):
        pages = "unknown"
    return {
        "processor": model,
        "cpus": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "huge_pages": pages,
        "load_before": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


class Bench:
    """One run of the benchmark: where its processes find things, what it has found so far."""

    def __init__(self, args: argparse.Namespace, scratch: pathlib.Path):
        self.args, self.started = args, time.monotonic()
        self.cache = scratch / "compiled"
        self.setting: dict[str, str | int] = {
            "genes_file": str(scratch / "genes.npz"),
            "weights_file": str(scratch / "weights.npz"),
            "scratch": str(scratch),
            "threads": args.threads,
            "quick": int(args.quick),
        }
        self.spent: dict[str, float] = {}  # seconds of each line
        self.found: dict[str, Any] = {"machine": machine(args.threads), "lines": []}
        self.found |= {"errors": [], "left_out": []}
        self.genes = occupancy.k562(args.data / "k562")

    def say(self, text: str) -> None:
        """A line of progress on stderr."""
        print(f"[{time.monotonic() - self.started:5.0f} s] {text}", file=sys.stderr, flush=True)

    def env(self, allocator: str, platform: str = "cpu") -> dict[str, str]:
        """The environment of this run's processes."""
        threads = self.args.threads
        return children.environment(allocator, threads=threads, cache=self.cache, platform=platform)

    def wants(self, name: str) -> bool:
        """Whether this line was asked for."""
        if self.args.only:
            return name in self.args.only
        return not (self.args.quick and name == "sweep")

    def prepare(self) -> None:
        """Genes and weights for all processes."""
        self.genes.save(pathlib.Path(self.setting["genes_file"]))
        self.found["occupancy"] = self.genes.describe()
        self.say(f"genes: {self.genes.source}")
        weights = ("--data", str(self.args.data), "--out", self.setting["weights_file"])
        self.found["networks"] = children.once(
            "tests.benchmarks.networks", *weights, env=self.env("default")
        )

    def once(self, name: str, *arguments: str, platform: str = "cpu") -> dict[str, Any]:
        """One of the modules that run in a process of their own."""
        env = self.env("hugetlb", platform)
        return children.once(
            f"tests.benchmarks.{name}", json.dumps(self.setting), *arguments, env=env
        )

    def agree(self) -> None:
        """The float64 comparison, before any time is taken."""
        self.say("float64: loss, gradients, running statistics, outputs against PyTorch's")
        env = self.env("hugetlb") | {"XLA_FLAGS": children.QUICK_COMPILATION}
        setting = json.dumps(self.setting)
        self.found["exactness"] = children.once("tests.benchmarks.exactness", setting, env=env)

    @property
    def remaining(self) -> float:
        """Seconds left."""
        return 60 * self.args.minutes - (time.monotonic() - self.started)

    def lines(self, allocator: str, *, again: bool) -> None:
        """Every line that was asked for, under one allocator. Those that were measured before under
        another one are measured `again` as far as time allows.
        """
        left = [line for line in LINES if self.wants(line.name)]
        if again:
            left = [line.again(allocator) for line in left]
            left.sort(key=lambda line: not line.targets)  # lines with a target first
        for place, line in enumerate(left):
            # programs are compiled by now, which took about half of the time
            if again and self.spent.get(line.name, 0.0) / 2 > self.remaining:
                self.found["left_out"].append(f"{line.name}, {allocator}")
                continue
            before = time.monotonic()
            # New processes for each line, so that it gives the same numbers alone as among others:
            # what a process has allocated before makes PyTorch up to three times faster, and XLA
            # maps each of a program's thousand kernels on its own, of 65,530 that Linux allows.
            with children.workers(SIDES, self.setting, self.env(allocator)) as workers:
                self.line(line, workers, allocator, share=1 / (len(left) - place))
            self.spent[line.name] = time.monotonic() - before

    def line(self, line: Line, workers, allocator: str, *, share: float) -> None:
        """One line; what fails or disagrees is kept as an error, without times."""
        seconds = min(self.args.seconds, max(self.remaining * share / 2, 1.0))
        try:
            found = measure.line(
                line,
                workers,
                allocator,
                seconds=QUICK_SECONDS if self.args.quick else seconds,
                quick=self.args.quick,
                say=lambda text: self.say(f"{allocator}: {text}"),
            )
        except Disagreement as error:
            self.error(str(error))
        except RuntimeError as error:
            self.error(f"{line.name}, {allocator}: {error}")
        else:
            self.found["lines"].append(found)
            self.say(f"{allocator}: {line.name}: {report.ratios(found)}")
            self.save()  # a run that is stopped keeps what it has

    def save(self) -> None:
        """Writes the numbers and the page, as far as they go."""
        for name, text in (
            ("bench.json", json.dumps(self.found, indent=1) + "\n"),
            ("report.html", report.page(self.found)),
        ):
            with atomic_file(self.args.out / name) as temporary:
                temporary.write_text(text)

    def error(self, text: str) -> None:
        """Notes what went wrong; the run goes on and fails in the end."""
        self.say(f"ERROR {text}")
        self.found["errors"].append(text)

    def memory(self) -> None:
        """Peak memory of a step, both sides."""
        grown = {
            way: self.once("memory", way, str(MEMORY_BATCH))["growth"]
            for way in (memory.REFERENCE, *memory.OURS)
        }
        reference = grown[memory.REFERENCE]["usual"]
        self.found["memory"] = [
            {
                "allocator": "hugetlb",
                "batch": MEMORY_BATCH,
                "ours": way,
                "bytes": {"reference": reference, **grown[way]},
                "share": grown[way]["usual"] / reference,
                "at_most": MEMORY_SHARE,
                "passed": grown[way]["usual"] / reference <= MEMORY_SHARE,
            }
            for way in memory.OURS
        ]

    def run(self) -> None:
        """All stages in order."""
        first, *others = (
            [*children.ALLOCATORS] if self.args.allocator == "both" else [self.args.allocator]
        )
        self.prepare()
        self.agree()
        self.lines(first, again=False)
        for name in EXTRAS:
            if self.wants(name):
                self.say(name)
                try:
                    getattr(self, name)()
                except RuntimeError as error:
                    self.error(f"{name}: {error}")
        for allocator in () if self.args.quick else others:
            self.lines(allocator, again=True)
        self.found["seconds"] = time.monotonic() - self.started

    def disk(self) -> None:
        """Bytes a gene on disk."""
        most = 200 if self.args.quick else DISK_GENES
        self.found["disk"] = disk.measure(self.genes, most_genes=most)

    def sweep(self) -> None:
        """Cost by genes, elements, bases and slots."""
        self.found["sweep"] = self.once("sweep")

    def accelerator(self) -> None:
        """Speed on a GPU or TPU, where there is one."""
        self.found["accelerator"] = self.once("accelerator", platform="")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status."""
    args = parser().parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    # ended from outside, it takes its processes and files with it
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="epinformer_bench_") as scratch:
        bench = Bench(args, pathlib.Path(scratch))
        try:
            bench.run()
        except Disagreement as error:
            print(f"error: {error}; nothing was timed", file=sys.stderr)
            return 1
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    bench.save()
    print(report.text(bench.found))
    print(f"numbers: {args.out / 'bench.json'}\nreport:  {args.out / 'report.html'}")
    return 1 if bench.found["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
