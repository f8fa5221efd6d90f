"""Outputs of the commands: tables, what was left out, and JSON that says how they were made.

Every file appears whole or not at all. Beside `elements.tsv.gz` stand `elements.json` (settings,
counts, versions) and, where rows were left out, `elements.dropped.tsv`.
"""

import argparse
import contextlib
import gzip
import json
import os
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from epinformer_jax.data.atomic import atomic_file

_TABLE_ENDINGS = (".gz", ".tsv", ".txt", ".bed", ".csv")


def write_frame(
    frame: pd.DataFrame,
    path: str | os.PathLike,
    *,
    header: bool = True,
    float_format: str | None = None,
) -> None:
    """Writes a tab-separated table in the frame's own order; gzip (no time stamp) when named `.gz`.

    Missing values become empty fields; without `float_format` numbers keep enough digits to be read
    back as they are.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"sep": "\t", "index": False, "header": header, "lineterminator": "\n"}
    with atomic_file(path) as temporary, contextlib.ExitStack() as stack:
        target: Any = stack.enter_context(open(temporary, "wb"))
        if path.name.endswith(".gz"):
            target = stack.enter_context(gzip.GzipFile("", "wb", 6, target, mtime=0))
        frame.to_csv(target, float_format=float_format, **options)


def sibling(path: str | os.PathLike, ending: str) -> Path:
    """The file that belongs to an output: `links.tsv.gz` and ".json" give `links.json`."""
    path = Path(path)
    name = path.name
    for known in _TABLE_ENDINGS:
        name = name.removesuffix(known)
    return path.with_name(name + ending)


def write_json(values: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Writes settings and counts as JSON, keys in the order given."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, default=_plain) + "\n", encoding="utf-8")


def write_dropped(frames: Iterable[pd.DataFrame], path: str | os.PathLike) -> dict[str, int]:
    """Writes what was left out, each frame with a `reason`, beside the output; returns counts.

    Without any row an older list of the same name is taken away, so that it cannot be read as
    today's.
    """
    target = sibling(path, ".dropped.tsv")
    kept = [_nullable(frame) for frame in frames if len(frame)]
    if not kept:
        target.unlink(missing_ok=True)
        return {}
    dropped = pd.concat(kept, ignore_index=True)
    ordered = [*[name for name in dropped.columns if name != "reason"], "reason"]
    write_frame(dropped[ordered], target)
    return {
        str(reason): int(count)
        for reason, count in dropped["reason"].value_counts(sort=False).items()
    }


def report_dropped(counts: Mapping[str, int], path: str | os.PathLike) -> None:
    """Prints what was left out, one line a reason, and where the list is."""
    for reason, count in counts.items():
        print(f"left out {count:,}: {reason}")
    if counts:
        print(f"the list is in {sibling(path, '.dropped.tsv')}")


def versions(*packages: str) -> dict[str, str]:
    """The installed versions of packages, for the JSON beside an output."""
    return {package: metadata.version(package) for package in packages}


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options of a command as they were given, for the JSON beside its output."""
    plain = (str, int, float, bool, list, tuple, type(None))
    return {name: value for name, value in sorted(vars(args).items()) if isinstance(value, plain)}


def _nullable(frame: pd.DataFrame) -> pd.DataFrame:
    """Whole numbers stay whole where another list lacks the column."""
    whole = [name for name in frame.columns if pd.api.types.is_integer_dtype(frame[name])]
    return frame.astype(dict.fromkeys(whole, "Int64"))


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    if hasattr(value, "__fspath__"):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
