"""Contigs of a data file against those of the genome: the same assembly, perhaps under other names.

UCSC (chr1, chrM), Ensembl (1, MT) and RefSeq (NC_000001.11) names are matched by themselves; a
table of aliases settles the rest. Two files whose contigs of one name differ in length come from
different assemblies.
"""

import os
from collections.abc import Mapping

import pandas as pd

from data_prep.text_input import numbered_lines, parse_integers, split_fields

_MITOCHONDRION = {"chrM": "MT", "MT": "chrM", "M": "chrM"}


class NoCommonContig(ValueError):
    """No contig of a file has a name that the genome knows."""


def read_contig_lengths(path: str | os.PathLike) -> dict[str, int]:
    """Reads contig lengths from chrom.sizes or a FASTA index (.fai): name and length lead a line.

    Raises:
      ValueError: a line has no length, a length is not positive, or a name stands twice.
    """
    lengths: dict[str, int] = {}
    for number, line in numbered_lines(path):
        fields = split_fields(line)
        if len(fields) < 2:
            raise ValueError(
                f"{path}:{number}: {len(fields)} field; expected a contig name and its length"
            )
        name = fields[0]
        if not lengths and fields[1].lower() in ("length", "size", "split"):
            continue
        length = int(parse_integers([fields[1]], [number], path=path, name=f"length of {name}")[0])
        if length <= 0:
            raise ValueError(
                f"{path}:{number}: length of {name} is {length}; expected a positive number of bp"
            )
        if name in lengths:
            raise ValueError(
                f"{path}:{number}: contig {name} stands twice; expected each name once"
            )
        lengths[name] = length
    if not lengths:
        raise ValueError(f"{path}: holds no contigs; expected lines of name and length")
    return lengths


def read_aliases(path: str | os.PathLike) -> dict[str, str]:
    """Reads two columns without a header: a name in the data files, the name in the genome.

    Raises:
      ValueError: a line has not two fields, or a name is mapped twice.
    """
    aliases: dict[str, str] = {}
    for number, line in numbered_lines(path):
        fields = split_fields(line)
        if len(fields) != 2:
            raise ValueError(
                f"{path}:{number}: {len(fields)} fields; expected 2: the name in the data, the "
                "name in the genome"
            )
        if fields[0] in aliases:
            raise ValueError(f"{path}:{number}: {fields[0]} is mapped twice; keep one line")
        aliases[fields[0]] = fields[1]
    return aliases


def match_contigs(
    found: Mapping[str, int | None],
    expected: Mapping[str, int | None],
    *,
    source: str,
    aliases: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Maps the contig names of a file to those expected; contigs without a partner are left out.

    A length of None is not known and agrees with every length. Names are tried as they are, by
    alias, with `chr` added or taken away (MT = chrM), and last by a length that only one contig has
    on both sides.

    Raises:
      ValueError: partners differ in length (another assembly), two names claim one contig, or no
        name fits (NoCommonContig).
    """
    aliases = aliases or {}
    by_length = _unique_lengths(found, expected)
    mapping: dict[str, str] = {}
    claimed: dict[str, str] = {}
    for name, length in found.items():
        partner = _partner(name, expected, aliases) or by_length.get(name)
        if partner is None:
            continue
        wanted = expected[partner]
        if length is not None and wanted is not None and length != wanted:
            raise ValueError(
                f"{source}: contig {name} has {length:,} bp, but {partner} of the genome has "
                f"{wanted:,} bp; this is another assembly: use files of one assembly, or lift "
                "this one over"
            )
        if partner in claimed:
            raise ValueError(
                f"{source}: contigs {claimed[partner]} and {name} both stand for {partner}; "
                "settle it with --aliases"
            )
        claimed[partner] = name
        mapping[name] = partner
    if not mapping:
        raise NoCommonContig(
            f"{source}: no contig name in common with the genome (found {_some(found)}; expected "
            f"{_some(expected)}); give --aliases with lines of found<TAB>expected"
        )
    return mapping


def rename_contigs(
    frame: pd.DataFrame,
    expected: Mapping[str, int | None],
    *,
    source: str,
    aliases: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """The table with the genome's names of its contigs; says in a line which names have changed.

    Names without a partner stay as they are.

    Raises:
      ValueError: as `match_contigs`.
    """
    found = dict.fromkeys(frame["chrom"].unique())
    names = match_contigs(found, expected, source=source, aliases=aliases)
    changed = [f"{theirs} -> {ours}" for theirs, ours in names.items() if theirs != ours]
    if not changed:
        return frame
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    print(f"{source}: contigs by the genome's names: {', '.join(changed[:3])}{more}")
    renamed = frame.assign(chrom=[names.get(name, name) for name in frame["chrom"]])
    renamed.attrs = frame.attrs
    return renamed


def _partner(name: str, expected: Mapping, aliases: Mapping[str, str]) -> str | None:
    tried = [aliases[name]] if name in aliases else []
    tried += [name, name.removeprefix("chr"), f"chr{name}", _MITOCHONDRION.get(name, name)]
    return next((candidate for candidate in tried if candidate in expected), None)


def _unique_lengths(found: Mapping, expected: Mapping) -> dict[str, str]:
    """RefSeq names: partners by length, only where no name fits and lengths tell contigs apart."""
    if any(_partner(name, expected, {}) for name in found) or None in {
        *found.values(),
        *expected.values(),
    }:
        return {}
    ours = {length: name for name, length in expected.items()}
    theirs = {length: name for name, length in found.items()}
    if len(ours) != len(expected) or len(theirs) != len(found):
        repeated = [*expected.values()], [*found.values()]
        ours = {length: name for length, name in ours.items() if repeated[0].count(length) == 1}
        theirs = {length: name for length, name in theirs.items() if repeated[1].count(length) == 1}
    return {name: ours[length] for length, name in theirs.items() if length in ours}


def _some(names: Mapping) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
