"""Names of contigs: their natural order, the nearest known name, and the names of splits."""

import difflib
import re
from collections.abc import Iterable

_SEX_AND_ORGANELLE = {"X": 0, "Y": 1, "M": 2, "MT": 2}
_SPLIT_NAME = re.compile(r"\w+", re.ASCII)
_RESERVED_SPLITS = {"all"}


def chromosome_key(name: str) -> tuple:
    """Sort key of the natural order: chr1, chr2, ..., chr10, chrX, chrY, chrM, then other names.

    A prefix "chr" does not matter; digits inside a name compare as numbers, so chr1_5 < chr1_20 <
    chr2.
    """
    bare = name.removeprefix("chr")
    if bare in _SEX_AND_ORGANELLE:
        return ((1, _SEX_AND_ORGANELLE[bare], ""), (-1, 0, name))
    parts = (part for part in re.split(r"(\d+)", bare) if part)
    numbers = ((0, int(part), "") if part.isdecimal() else (2, 0, part) for part in parts)
    return (*numbers, (-1, 0, name))


def natural_order(names: Iterable[str]) -> list[str]:
    """Sorts names by `chromosome_key`, each name once."""
    return sorted(set(names), key=chromosome_key)


def suggest(name: str, known: Iterable[str]) -> str:
    """A clause for an error message: the nearest known name, or the first few names."""
    known = list(known)
    for candidate in (f"chr{name}", name.removeprefix("chr"), name.split(".")[0]):
        if candidate in known:
            return f"did you mean {candidate!r}?"
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return f"known names: {listed or 'none'}"


def check_split_name(name: str) -> str:
    """Returns a name that can stand in a TFDS split expression, unchanged.

    Raises:
      ValueError: the name holds something other than letters, digits and _, or is a reserved word.
    """
    if name in _RESERVED_SPLITS or not _SPLIT_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be the name of a split: use letters, digits and _ "
            f"(reserved: {', '.join(sorted(_RESERVED_SPLITS))}); "
            "give the contig another split in contigs.tsv"
        )
    return name
