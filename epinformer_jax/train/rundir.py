"""What a run leaves on disk besides checkpoints: configuration, versions, tables, metrics.

A run directory is a local folder or a place in a bucket (gs://...). Of several processes one
writes.
"""

import hashlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from etils import epath

from epinformer_jax.data import atomic, delimited
from epinformer_jax.train import distributed

# Fields that choose what is run, not how: a run may be widened without starting anew.
NOT_IN_IDENTITY = (
    ("name",),
    ("data", "fold_names"),
    ("distributed",),
    ("compilation_cache",),
    ("train", "encoder_cache"),
    ("train", "encoder_cache_directory"),
    ("train", "folds_in_parallel"),
)
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


def folder(path: str | os.PathLike) -> os.PathLike:
    """A run directory as a path: pathlib's for a local one, epath's for a bucket."""
    return epath.Path(path) if is_remote(path) else Path(path)


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path names a place in a bucket."""
    return "://" in str(path)


def make(directory: os.PathLike) -> None:
    """Creates a folder and those above it, if need be."""
    directory.mkdir(parents=True, exist_ok=True)


def open_run(
    directory: os.PathLike, config: Mapping[str, Any], fingerprints: Mapping[str, str]
) -> str:
    """Creates the run directory, or checks that it belongs to this configuration and these data;
    returns the run's id.

    Raises:
      ValueError: the directory holds another run; names the first field that differs.
    """
    make(directory)
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


def write_json(path: os.PathLike, content: Any) -> None:
    """Readable JSON, written whole or not at all; JSON has no NaN or infinity: they become null."""
    if not distributed.is_lead():
        return
    with atomic.atomic_file(path) as temporary:
        text = json.dumps(_finite(content), indent=1, allow_nan=False)
        temporary.write_text(text + "\n")


def write_tsv(path: os.PathLike, frame: pd.DataFrame) -> None:
    """A tab-separated table with header, written whole or not at all; floats with 7 significant
    digits.
    """
    if not distributed.is_lead():
        return
    delimited.write_table(frame, path, float_format="%.7g")


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def _written_identity(path: os.PathLike) -> dict[str, Any]:
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
        for name in folders:
            node = node.get(name, {})
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
