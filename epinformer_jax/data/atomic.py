"""Outputs that appear whole or not at all: written under a temporary name, then renamed."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from etils import epath

MARKER = "manifest.json"


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path in the same folder; it becomes `path` when the block ends well.

    For a place in a bucket (gs://...) it is a local one, copied there at the end: objects appear
    whole by themselves.

    Raises:
      OSError: the folder does not exist or cannot be written.
    """
    if "://" in os.fspath(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / epath.Path(path).name
            yield temporary
            epath.Path(path).write_bytes(temporary.read_bytes())
        return
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary directory beside `path`; it becomes `path` when the block ends well.

    What a killed run left under the temporary name is cleared first. With `overwrite` an older
    output is replaced, but only a directory that holds a manifest.json is taken for one.

    Raises:
      ValueError: `path` exists and is not empty, or is not an output of this program.
    """
    target = Path(path).absolute()
    temporary = target.with_name(f".{target.name}.partial")
    previous = target.with_name(f".{target.name}.previous")
    if previous.exists() and not target.exists():  # killed between the two renames below
        os.replace(previous, target)
    refuse_existing(target, overwrite=overwrite)
    for leftover in (temporary, previous):
        if leftover.exists():
            shutil.rmtree(leftover)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if target.exists():
            os.replace(target, previous)
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if previous.exists() and not target.exists():
            os.replace(previous, target)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def refuse_existing(path: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Checks early that an output directory may be written.

    Raises:
      ValueError: it is a file, or holds something and `overwrite` is off, or does not look like an
        output.
    """
    target = Path(path)
    if target.is_file():
        raise ValueError(f"{target}: is a file; the output must be a directory")
    if not target.exists() or not any(target.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"{target}: already exists; choose another place or pass --overwrite")
    if not (target / MARKER).is_file():
        raise ValueError(
            f"{target}: no {MARKER} in it, so it is not an output to replace; choose another place"
        )
