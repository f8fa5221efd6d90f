"""Shuffled DNA with exactly the dinucleotides it had: the references of attributions.

The order of bases is a random Euler path through the graph whose edges are the dinucleotides
(Altschul and Erickson 1985, doi 10.1093/oxfordjournals.molbev.a040370), each path as likely as any
other. Unknown bases stay where they are; each stretch between them is shuffled on its own, so its
first and last base stay too.
"""

import numpy as np
from jaxtyping import Int, UInt8

from epinformer_jax.data import sequence


def dinucleotide_shuffles(
    codes: UInt8[np.ndarray, " L"], count: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "K L"]:
    """`count` shuffles of codes, one a row; stretches of up to three bases cannot change."""
    shuffled = np.repeat(codes[None], count, axis=0)
    is_known = np.concatenate([[False], codes != sequence.UNKNOWN, [False]])
    edges = np.flatnonzero(is_known[1:] != is_known[:-1])
    for start, end in zip(edges[0::2], edges[1::2], strict=True):
        letters = np.log2(codes[start:end]).astype(np.int64)
        shuffled[:, start:end] = 1 << _euler_paths(letters, count, rng).astype(np.uint8)
    return shuffled


def _euler_paths(
    letters: Int[np.ndarray, " n"], count: int, rng: np.random.Generator
) -> Int[np.ndarray, "K n"]:
    """Random orders of the same transitions; letters are 0 to 3, all paths are walked at once."""
    paths = np.repeat(letters[None], count, axis=0)
    if len(letters) < 4:
        return paths
    transitions = np.zeros((4, 4), np.int64)
    np.add.at(transitions, (letters[:-1], letters[1:]), 1)
    last = _last_exits(transitions, int(letters[-1]), count, rng)
    exits = np.zeros((count, 4, len(letters)), np.int64)
    for letter in np.flatnonzero(transitions.sum(axis=1)):
        targets = np.repeat(np.arange(4), transitions[letter])
        own = np.repeat(targets[None], count, axis=0)
        if letter != letters[-1]:  # the last exit is fixed, the others come in any order
            position = np.searchsorted(targets, last[:, letter])
            own[np.arange(count), position] = own[:, -1]
            own[:, -1] = last[:, letter]
            own[:, :-1] = rng.permuted(own[:, :-1], axis=1)
        else:
            own = rng.permuted(own, axis=1)
        exits[:, letter, : own.shape[1]] = own
    used = np.zeros((count, 4), np.int64)
    rows, at = np.arange(count), paths[:, 0].copy()
    for step in range(1, len(letters)):
        following = exits[rows, at, used[rows, at]]
        used[rows, at] += 1
        paths[:, step] = at = following
    return paths


def _last_exits(
    transitions: Int[np.ndarray, "4 4"], end: int, count: int, rng: np.random.Generator
) -> Int[np.ndarray, "K 4"]:
    """For each letter where its last exit leads: drawn by count until all ways lead to `end`."""
    last = np.full((count, 4), end)
    leaving = [v for v in np.flatnonzero(transitions.sum(axis=1)) if v != end]
    onwards = transitions * (1 - np.eye(4, dtype=np.int64))  # a last exit to oneself leads nowhere
    waiting = np.arange(count)
    while waiting.size:
        for letter in leaving:
            shares = onwards[letter] / onwards[letter].sum()
            last[waiting, letter] = rng.choice(4, size=waiting.size, p=shares)
        reached = np.repeat(np.arange(4)[None], waiting.size, axis=0)
        for _ in range(3):
            reached = np.where(
                reached == end, end, np.take_along_axis(last[waiting], reached, axis=1)
            )
        waiting = waiting[(reached[:, leaving] != end).any(axis=1)]
    return last
