"""Builds of the tables of tests/tiny_inputs.py: a rule for them, what a command says and leaves."""

import hashlib

from data_prep import __main__ as command
from epinformer_jax.data.elements import ElementRule

RULE = ElementRule(min_distance_bp=100, max_distance_bp=5000, max_elements=3, window_bp=400)
RULE_FLAGS = ["--min-distance-bp=100", "--max-distance-bp=5000", "--window-bp=400"]


def run(*arguments, capsys):
    """Exit code, stdout and stderr of a command, in this process."""
    code = command.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def hashes(folder):
    """Digest of each file below."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
