"""Stages of a run: each is done once for its inputs and parameters, whole or not at all.

A stage's folder holds its outputs and `stage.json`: the key (sha256 over the command, the content
of its input files and the package version), the outputs' hashes and the seconds it took. A stage
whose key and outputs are unchanged is not run again. It is made under a temporary name and
renamed, so that a killed one leaves nothing that counts.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.outputs import write_json
from epinformer_jax.data.atomic import atomic_file

RECORD = "stage.json"
# Raise when a stage's outputs change for the same inputs and parameters.
STAGES_VERSION = 2
_BLOCK_BYTES = 1 << 22


class FileHashes:
    """sha256 of files, remembered by path, size and time of change in a JSON file."""

    def __init__(self, memory: str | os.PathLike):
        self._memory = Path(memory)
        self._known: dict[str, list] = {}
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(self._memory.read_text())
            self._known = known if isinstance(known, dict) else {}

    def of(self, path: str | os.PathLike) -> str:
        """The hash of a file, or of the names and contents of all files in a folder.

        Raises:
          OSError: it cannot be read.
        """
        path = Path(path).absolute()
        if path.is_dir():
            digest = hashlib.sha256()
            for inner in sorted(inner for inner in path.rglob("*") if inner.is_file()):
                digest.update(f"{inner.relative_to(path)}\t{self.of(inner)}\n".encode())
            return digest.hexdigest()
        state = path.stat()
        stamp = [state.st_size, state.st_mtime_ns, state.st_ino]
        known = self._known.get(str(path))
        if not isinstance(known, list) or known[:3] != stamp:
            known = self._known[str(path)] = [*stamp, file_sha256(path)]
        return known[3]

    def save(self) -> None:
        """Writes the memory; hashing again costs time only, so a lost one does no harm."""
        with atomic_file(self._memory) as temporary:
            temporary.write_text(json.dumps(self._known, indent=0, sort_keys=True) + "\n")


def file_sha256(path: str | os.PathLike) -> str:
    """sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Stage:
    """A step of a run.

    Attributes:
      name: of its folder.
      work: called with the folder to fill; prints what it did.
      parameters: everything besides the inputs that its outputs depend on.
      inputs: name -> file or folder; its content counts, not its path.
    """

    name: str
    work: Callable[[Path], None]
    parameters: Any
    inputs: Mapping[str, str | os.PathLike] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """What became of a stage: its folder, whether it ran now, seconds and lines it printed."""

    name: str
    folder: Path
    was_run: bool
    seconds: float
    lines: tuple[str, ...]


def run_stage(stage: Stage, parent: str | os.PathLike, hashes: FileHashes) -> Done:
    """Runs a stage in `parent`/name, unless its folder holds the outputs of the same key.

    Raises:
      ValueError, OSError: whatever the stage raises; its folder is then as it was before.
    """
    target = Path(parent).absolute() / stage.name
    partial = target.with_name(f".{stage.name}.partial")
    contents = {name: hashes.of(path) for name, path in sorted(stage.inputs.items())}
    key = _key(stage, contents)
    record = _finished(target, key, hashes)
    if record is not None:
        return Done(stage.name, target, False, record["seconds"], tuple(record["lines"]))
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    started = time.monotonic()
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            stage.work(partial)
        _rename_inside(partial, target)
        seconds = round(time.monotonic() - started, 3)
        text = said.getvalue().replace(str(partial), str(target))
        lines = tuple(line for line in text.splitlines() if line)
        outputs = {
            str(path.relative_to(partial)): file_sha256(path)
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        values = {"stage": stage.name, "key": key, "parameters": stage.parameters}
        values |= {"inputs": contents, "outputs": outputs, "seconds": seconds, "lines": lines}
        write_json(values, partial / RECORD)
        if target.exists():
            shutil.rmtree(target)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Done(stage.name, target, True, seconds, lines)


def call(command: Any, arguments: Sequence[str]) -> None:
    """Runs a command module of data_prep with command-line arguments.

    Raises:
      ValueError, OSError: what the command raises.
    """
    import argparse

    parser = argparse.ArgumentParser(allow_abbrev=False)
    command.add_arguments(parser)
    command.run(parser.parse_args(list(arguments)))


def options(**values: Any) -> list[str]:
    """Command-line options of values: None and "" are left out, True is a bare flag."""
    words: list[str] = []
    for name, value in values.items():
        if value is None or value == "" or value is False:
            continue
        option = "--" + name.replace("_", "-")
        words += [option] if value is True else [f"{option}={value}"]
    return words


def leave_only(parent: str | os.PathLike, names: Iterable[str]) -> list[str]:
    """Removes folders of stages that are no part of the run any more; returns their names."""
    gone = []
    for path in sorted(Path(parent).iterdir()):
        if path.is_dir() and path.name not in set(names) and (path / RECORD).is_file():
            shutil.rmtree(path)
            gone.append(path.name)
    return gone


def _key(stage: Stage, contents: Mapping[str, str]) -> str:
    values = {
        "version": STAGES_VERSION,
        "stage": stage.name,
        "parameters": stage.parameters,
        "inputs": contents,
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _finished(target: Path, key: str, hashes: FileHashes) -> dict[str, Any] | None:
    """The record of a stage that was done with this key and whose outputs are untouched."""
    try:
        record = json.loads((target / RECORD).read_text())
        if record["key"] != key:
            return None
        for name, sha256 in record["outputs"].items():
            if hashes.of(target / name) != sha256:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record


def _rename_inside(partial: Path, target: Path) -> None:
    """JSON beside the outputs names the final folder, not the temporary one."""
    for path in partial.glob("*.json"):
        text = path.read_text()
        if str(partial) in text:
            path.write_text(text.replace(str(partial), str(target)))
