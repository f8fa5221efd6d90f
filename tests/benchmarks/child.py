"""A worker process: prepares contenders of one side and runs them when told, one line of JSON each.

    python -m tests.benchmarks.child SIDE SETTING      (started by children.Worker)

Requests: prepare (contender, job, options), check (contender), run (contender, length), drop
(contender). A reply is a dictionary, or {"error": ...}. What the side prints goes to stderr.
"""

import importlib
import json
import os
import pathlib
import resource
import sys
import time
import traceback

from absl import logging

SIDES = {
    "reference": ("tests.benchmarks.reference",),
    "ours": ("tests.benchmarks.expression", "tests.benchmarks.reading"),
}


def busy_seconds() -> float | None:
    """CPU seconds all processes of this machine have used; None where the system does not say."""
    try:
        fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Contenders:
    """What has been prepared in this process."""

    def __init__(self, side: str, setting):
        self.setting = setting
        self.jobs = {}
        for name in SIDES[side]:
            self.jobs |= importlib.import_module(name).JOBS
        self.prepared = {}
        self.next_run = {}

    def prepare(self, contender: str, job: str, options: dict) -> dict:
        """Makes a contender ready."""
        self.prepared[contender] = self.jobs[job](self.setting, **options)
        self.next_run[contender] = 0
        ready = self.prepared[contender]
        return {"work": ready.work, "one_off": ready.one_off}

    def check(self, contender: str) -> dict:
        """The numbers it must agree on; seconds of the run that gave them, if a run did."""
        ready = self.prepared[contender]
        if ready.numbers is not None:
            return {"numbers": ready.numbers(), "seconds": None}
        before = time.perf_counter()
        numbers = ready.run(0)
        self.next_run[contender] = 1
        return {"numbers": numbers, "seconds": time.perf_counter() - before}

    def run(self, contender: str, length: float) -> dict:
        """Seconds of each run, as many as begin before `length` seconds are over, and how many CPUs
        other processes kept busy meanwhile.
        """
        seconds = []
        busy, own, started = busy_seconds(), own_seconds(), time.perf_counter()
        while not seconds or time.perf_counter() - started < length:
            before = time.perf_counter()
            self.prepared[contender].run(self.next_run[contender])
            seconds.append(time.perf_counter() - before)
            self.next_run[contender] += 1
        others = 0.0
        if busy is not None:
            used = busy_seconds() - busy - (own_seconds() - own)
            others = max(used, 0.0) / (time.perf_counter() - started)
        return {"seconds": seconds, "others": others}

    def drop(self, contender: str) -> dict:
        """Forgets a contender and frees what it held."""
        dropped = self.prepared.pop(contender, None)
        if dropped is not None and dropped.close is not None:
            dropped.close()
        return {}


def main() -> None:
    """Answers requests until stdin ends."""
    side, text = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from tests.benchmarks.setting import Setting

    logging.set_verbosity(logging.ERROR)  # of this process alone
    contenders = Contenders(side, Setting.from_text(text))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = getattr(contenders, request.pop("do"))(**request)
        except Exception:  # the parent shows it; this process cannot
            reply = {"error": traceback.format_exc()}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
