"""Motif matrices from JASPAR and MEME files, plain or gzip, or from a JASPAR release by name."""

import gzip
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from epinformer_jax.data import atomic

INSTALL = "pip install 'epinformer_jax[interpret]'"
PSEUDOCOUNT = 0.8  # of a count matrix, shared by the four bases
_RELEASE = re.compile(r"JASPAR\d{4}")
_NUMBERS = re.compile(r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?")
_LETTERS = "ACGT"


class Motif(NamedTuple):
    """A motif: probabilities of A, C, G, T at each position."""

    id: str
    name: str
    probabilities: Float[np.ndarray, "4 W"]


def read_motifs(sources: Sequence[str | os.PathLike]) -> list[Motif]:
    """All motifs of files, and of releases such as JASPAR2026 (CORE vertebrates, by pyjaspar).

    Raises:
      ValueError: no such file or release, a matrix that cannot be read, or an id twice.
    """
    motifs: list[Motif] = []
    for source in sources:
        if _RELEASE.fullmatch(str(source)):
            motifs += _release(str(source))
        else:
            motifs += _read_file(Path(source))
    ids = [motif.id for motif in motifs]
    twice = next((own for own in ids if ids.count(own) > 1), None)
    if twice is not None:
        raise ValueError(f"motif {twice!r} stands twice in {', '.join(map(str, sources))}")
    return motifs


def write_meme(path: str | os.PathLike, motifs: Sequence[Motif]) -> None:
    """Writes motifs as MEME text (minimal format), which other motif tools read."""
    lines = ["MEME version 5", "", "ALPHABET= ACGT", "", "strands: + -", ""]
    for motif in motifs:
        width = motif.probabilities.shape[1]
        lines += [f"MOTIF {motif.id} {motif.name}".rstrip()]
        lines += [f"letter-probability matrix: alength= 4 w= {width}"]
        lines += [" ".join(f"{value:.6f}" for value in column) for column in motif.probabilities.T]
        lines += [""]
    with atomic.atomic_file(path) as temporary:
        temporary.write_text("\n".join(lines))


def consensus(motif: Float[np.ndarray, "4 W"]) -> str:
    """The most probable base at each position, small below one half, n below 0.35."""
    text = ""
    for column in motif.T:
        letter, share = _LETTERS[int(column.argmax())], column.max()
        text += letter if share >= 0.5 else letter.lower() if share >= 0.35 else "n"
    return text


def _read_file(path: Path) -> list[Motif]:
    if not path.is_file():
        raise ValueError(
            f"{path}: no such motif file; give JASPAR (.pfm, .jaspar) or MEME text, plain or gzip, "
            "or a release such as JASPAR2026"
        )
    with path.open("rb") as raw:
        is_packed = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rt") if is_packed else path.open() as file:
            lines = [line.strip() for line in file]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as text ({error})") from None
    first = next((line for line in lines if line), "")
    reader = _meme if first.startswith("MEME version") else _jaspar
    motifs = [
        Motif(own, name, _probabilities(rows, f"{path}:{number}: motif {own}"))
        for number, own, name, rows in reader(path, lines)
    ]
    if not motifs:
        raise ValueError(f"{path}: holds no motif; expected JASPAR (>id name) or MEME text")
    return motifs


def _jaspar(path: Path, lines: list[str]) -> Iterator[tuple[int, str, str, list[list[float]]]]:
    """Blocks of a header and four rows A, C, G, T, with or without letters and brackets."""
    filled = [(number, line) for number, line in enumerate(lines, 1) if line]
    for at in range(0, len(filled), 5):
        number, header = filled[at]
        rows = [line for _, line in filled[at + 1 : at + 5]]
        if not header.startswith(">") or len(rows) < 4 or any(r.startswith(">") for r in rows):
            raise ValueError(
                f"{path}:{number}: expected a line >id name and four rows A, C, G, T; found "
                f"{header[:40]!r}"
            )
        for letter, row in zip(_LETTERS, rows, strict=True):
            if row[0].isalpha() and row[0].upper() != letter:
                raise ValueError(f"{path}:{number}: rows of {header[1:]} are not in order A C G T")
        own, _, name = header[1:].strip().partition("\t" if "\t" in header else " ")
        yield number, own, name.strip(), [_floats(row.lstrip("ACGTacgt")) for row in rows]


def _meme(path: Path, lines: list[str]) -> Iterator[tuple[int, str, str, list[list[float]]]]:
    """Blocks of MOTIF and letter-probability matrix, one position a line."""
    own, name, start = "", "", 0
    for number, line in enumerate(lines, 1):
        if line.startswith("MOTIF"):
            own, name = ([*line.split()[1:3], "", ""])[:2]
            start = number
        elif line.startswith("letter-probability matrix"):
            positions = []
            for row in lines[number:]:
                values = _floats(row) if row and not row[0].isalpha() else []
                if len(values) != 4:
                    break
                positions.append(values)
            if not own or not positions:
                raise ValueError(f"{path}:{number}: a matrix without MOTIF line or without rows")
            yield start, own, name, [list(column) for column in zip(*positions, strict=True)]


def _floats(text: str) -> list[float]:
    return [float(number) for number in _NUMBERS.findall(text)]


def _probabilities(rows: list[list[float]], where: str) -> Float[np.ndarray, "4 W"]:
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        raise ValueError(
            f"{where}: rows have {[len(row) for row in rows]} numbers; expected as many"
        )
    counts = np.array(rows, np.float64)
    if (counts < 0).any() or (counts.sum(axis=0) <= 0).any():
        raise ValueError(f"{where}: a negative number, or a position without counts")
    if np.allclose(counts.sum(axis=0), 1, atol=0.02):
        return counts / counts.sum(axis=0, keepdims=True)
    counts += PSEUDOCOUNT / 4
    return counts / counts.sum(axis=0, keepdims=True)


def _release(name: str) -> list[Motif]:
    try:
        import pyjaspar
    except ImportError:
        raise ValueError(
            f"{name} is read by pyjaspar, which is not installed; {INSTALL}, or give a file"
        ) from None
    try:
        found = pyjaspar.jaspardb(release=name).fetch_motifs(
            collection="CORE", tax_group="vertebrates"
        )
    except Exception as error:  # whatever pyjaspar raises for a release it has not
        raise ValueError(f"{name}: pyjaspar cannot read it ({error})") from None
    motifs = []
    for own in found:
        rows = [list(map(float, own.counts[letter])) for letter in _LETTERS]
        motifs.append(Motif(own.matrix_id, own.name, _probabilities(rows, own.matrix_id)))
    return motifs
