"""What a run leaves on disk besides checkpoints: configuration, versions, tables, metrics."""

import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from epinformer_jax.data import atomic, delimited

# Fields that choose what is run, not how: a run may be widened without starting anew.
NOT_IN_IDENTITY = (("name",), ("data", "fold_names"))
PACKAGES = (
    "epinformer_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
)


def open_run(directory: Path, config: Mapping[str, Any], fingerprints: Mapping[str, str]) -> str:
    """Creates the run directory, or checks that it belongs to this configuration and these data;
    returns the run's id.

    Raises:
      ValueError: the directory holds another run; names the first field that differs.
    """
    directory.mkdir(parents=True, exist_ok=True)
    identity = {"config": _identity(config), "data": dict(fingerprints)}
    path = directory / "config.json"
    if path.exists():
        before = _written_identity(path)
        if before != json.loads(json.dumps(identity)):
            name, was, now = _first_difference(before, identity)
            raise ValueError(
                f"{directory} holds a run with {name}={was!r}, this one has {now!r}; choose "
                "another --workdir, or remove "
                f"that directory"
            )
    write_json(path, {"config": config, "data": dict(fingerprints)})
    write_json(directory / "versions.json", versions())
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of the packages a result depends on, and of Python and the platform."""
    found = {name: _version(name) for name in PACKAGES}
    return {**found, "python": platform.python_version(), "platform": platform.platform()}


def write_json(path: Path, content: Any) -> None:
    """Readable JSON, written whole or not at all; JSON has no NaN or infinity: they become null."""
    with atomic.atomic_file(path) as temporary:
        text = json.dumps(_finite(content), indent=1, allow_nan=False)
        temporary.write_text(text + "\n")


def write_tsv(path: Path, frame: pd.DataFrame) -> None:
    """A tab-separated table with header, written whole or not at all; floats with 7 significant
    digits.
    """
    delimited.write_table(frame, path, float_format="%.7g")


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def _written_identity(path: Path) -> dict[str, Any]:
    try:
        old = json.loads(path.read_text())
        return {"config": _identity(old["config"]), "data": old["data"]}
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path}: not the configuration of a run (a fold's directory is not a --workdir); "
            "choose another --workdir"
        ) from None


def _identity(config: Mapping[str, Any]) -> dict[str, Any]:
    copy = json.loads(json.dumps(config))
    for *folders, last in NOT_IN_IDENTITY:
        node = copy
        for folder in folders:
            node = node[folder]
        node.pop(last, None)
    return copy


def _first_difference(before, now, prefix=""):
    for key in sorted(set(before) | set(now)):
        was, has = before.get(key), now.get(key)
        if json.dumps(was) == json.dumps(has):
            continue
        if isinstance(was, dict) and isinstance(has, dict):
            return _first_difference(was, has, f"{prefix}{key}.")
        return f"{prefix}{key}", was, has
    raise AssertionError("called with equal values")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
