"""Jitted calls whose answers are wanted on the host: the next ones compute while one is fetched."""

import collections
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax

AT_ONCE = 2  # a CPU runs the computations of one thread in turn

Tag = TypeVar("Tag")


def fetched(
    calls: Iterable[tuple[Tag, Callable[[], Any]]], *, at_once: int = AT_ONCE
) -> Iterator[tuple[Tag, Any]]:
    """What jitted calls answer, on the host and in their order, each with its tag.

    `at_once` of them run at a time, a thread each: a small computation keeps one core busy, and a
    device would wait while an answer is fetched. Calls are made one after another, so that none is
    compiled twice. Collective ones of several processes must keep their order: at_once=1.
    """
    calling, calls = threading.Lock(), iter(calls)

    def answer(call: Callable[[], Any]) -> Any:
        with calling:
            found = call()
        return jax.device_get(found)

    begun = list(itertools.islice(calls, 2))
    if len(begun) < 2:  # a thread would cost more than it brings
        yield from ((tag, answer(call)) for tag, call in begun)
        return
    with ThreadPoolExecutor(at_once) as pool:
        waiting: collections.deque = collections.deque()
        for tag, call in itertools.chain(begun, calls):
            waiting.append((tag, pool.submit(answer, call)))
            if len(waiting) > at_once:
                done, found = waiting.popleft()
                yield done, found.result()
        for done, found in waiting:
            yield done, found.result()
