import os
import subprocess
import sys

import pytest

from epinformer_jax import cli, launch

linux = pytest.mark.skipif(sys.platform != "linux", reason="huge pages are set on Linux alone")
PROGRAM = """
import os, sys
from epinformer_jax import launch
launch.with_huge_pages()
print(os.environ["GLIBC_TUNABLES"], sys.argv[1:])
"""


def printed(setting):
    """What a program prints that was started with two arguments and this GLIBC_TUNABLES."""
    env = {name: value for name, value in os.environ.items() if name != launch.TUNABLES} | setting
    return subprocess.check_output(
        [sys.executable, "-c", PROGRAM, "a b", "--c=d"], env=env, text=True
    ).strip()


@linux
def test_a_program_starts_again_with_huge_pages_and_its_arguments():
    assert printed({}) == "glibc.malloc.hugetlb=1 ['a b', '--c=d']"


@linux
def test_what_the_environment_says_of_the_allocator_stays():
    assert printed({launch.TUNABLES: ""}) == "['a b', '--c=d']"


@linux
def test_the_command_starts_with_huge_pages(monkeypatch):
    started = []
    monkeypatch.delenv(launch.TUNABLES, raising=False)
    monkeypatch.setattr(os, "execv", lambda program, arguments: started.append(arguments))
    monkeypatch.setattr(sys, "argv", ["epinformer", "--help"])
    assert cli.program() == 0
    assert started == [[sys.executable, *sys.orig_argv[1:]]]
    assert os.environ[launch.TUNABLES] == launch.HUGE_PAGES
