"""Answers of jitted calls: order, tags, how many at a time, compilation, errors."""

import functools
import time

import jax
import numpy as np
import pytest

from epinformer_jax.model.calls import fetched


def test_answers_come_in_the_order_of_their_calls_with_their_tags_few_at_a_time():
    double, made, shown = jax.jit(lambda x: 2 * x), [], []

    def calls():
        for number in range(9):
            made.append(number)
            yield f"call {number}", functools.partial(double, np.full(3, number))

    for tag, found in fetched(calls(), at_once=2):
        assert isinstance(found, np.ndarray)
        assert len(made) <= len(shown) + 3, "calls run far ahead of their answers"
        shown.append((tag, found.tolist()))
    assert shown == [(f"call {n}", [2 * n] * 3) for n in range(9)]


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_program_is_compiled_once_though_several_calls_run(at_once):
    traced = []

    @jax.jit
    def slow_to_trace(x):
        traced.append(time.sleep(0.05))
        return x + 1

    calls = ((n, functools.partial(slow_to_trace, np.full(2, n))) for n in range(6))
    assert [int(found[0]) for _, found in fetched(calls, at_once=at_once)] == [*range(1, 7)]
    assert len(traced) == 1


def test_an_error_of_a_call_is_raised_where_its_answer_is_asked_for():
    def fails():
        raise ValueError("no answer")

    answers = fetched([(0, lambda: np.ones(1)), (1, fails), (2, lambda: np.ones(1))])
    assert next(answers)[0] == 0
    with pytest.raises(ValueError, match="no answer"):
        next(answers)
