"""Variants from VCF files, plain, gzip or bgzip, and the same file with scores in its INFO column.

VCF positions are 1-based; a `Variant` is 0-based half-open. An alternative allele is one variant,
with the bases that it shares with the reference taken off both ends.
"""

import gzip
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from epinformer_jax.data import atomic, sequence
from epinformer_jax.data.genome import Genome

MAX_ALLELE_BP = 1000
DROPPED_COLUMNS = ["chrom", "pos", "id", "ref", "alt", "reason", "line", "in_fasta"]
_BASES = re.compile(r"[ACGTNacgtn]+")
_COLUMNS = ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO")


class Variant(NamedTuple):
    """One alternative allele.

    Attributes:
      line: of the file, counted from 1.
      chrom, pos, id, ref, alt: as in the file, pos 1-based.
      start, end: what is replaced, without shared bases; start == end is an insertion.
      inserted: codes of what stands there instead.
    """

    line: int
    chrom: str
    pos: int
    id: str
    ref: str
    alt: str
    start: int
    end: int
    inserted: np.ndarray

    @property
    def key(self) -> tuple[str, int, str, str]:
        """What names the variant, in the file's words."""
        return self.chrom, self.pos, self.ref, self.alt

    @property
    def growth_bp(self) -> int:
        """Bases that the sequence gains (or loses, negative)."""
        return len(self.inserted) - (self.end - self.start)

    def lifted(self, position: int, *, is_start: bool = False) -> int:
        """Where a boundary between two bases lies once the variant is there.

        Left of the variant and at its start nothing moves; at its end and right of it everything
        moves by `growth_bp`. Inside, boundaries stay as long as the new allele reaches. An interval
        that starts right of an insertion (`is_start`) does not take it in.
        """
        if position <= self.start and not (is_start and position == self.end):
            return position
        if position >= self.end:
            return position + self.growth_bp
        return min(position, self.start + len(self.inserted))


def fetch_edited(genome: Genome, variant: Variant, start: int, end: int) -> np.ndarray:
    """Codes of [start, end) of the contig that carries the variant; unknown past its ends."""
    chrom, inserted = variant.chrom, variant.inserted
    allele_end = variant.start + len(inserted)
    before = genome.fetch(chrom, start, max(start, min(end, variant.start)))
    middle = inserted[max(0, start - variant.start) : max(0, end - variant.start)]
    shift = variant.growth_bp
    after = genome.fetch(chrom, max(start, allele_end) - shift, max(start, allele_end, end) - shift)
    return np.concatenate([before, middle, after])


def read(
    path: str | os.PathLike, genome: Genome, *, max_allele_bp: int = MAX_ALLELE_BP
) -> tuple[list[Variant], pd.DataFrame]:
    """All variants in file order, and those left out: chrom, pos, id, ref, alt, reason, line of the
    file, and what the FASTA has where it contradicts the reference.

    Left out: symbolic alleles and breakends, `*` and missing alleles, alleles longer than
    `max_allele_bp`, letters that are no bases, alleles equal to the reference, repeats, contigs
    that the FASTA does not have, positions beyond their end, and references that the FASTA
    contradicts (N agrees with anything).

    Raises:
      ValueError: not a VCF, a line that cannot be read, or no reference agrees with the FASTA.
    """
    path = Path(path)
    kept: list[Variant] = []
    dropped, seen = [], set()
    for line, fields in _records(path):
        chrom, pos, name, ref, alts = fields[:5]
        for alt in alts.split(","):
            shown = (chrom, pos, name, ref, alt)
            reason = _refused(genome, chrom, pos, ref, alt, max_allele_bp)
            if not reason and (*shown[:2], ref.upper(), alt.upper()) in seen:
                reason = "repeated"
            if reason:
                there = ""
                if reason == REFERENCE_MISMATCH:
                    there = sequence.decode(genome.fetch(chrom, pos - 1, pos - 1 + len(ref)))
                dropped.append((*shown, reason, line, there))
                continue
            seen.add((*shown[:2], ref.upper(), alt.upper()))
            kept.append(_variant(line, *shown))
    table = pd.DataFrame(dropped, columns=DROPPED_COLUMNS)
    mismatches = int((table["reason"] == REFERENCE_MISMATCH).sum())
    if mismatches and not kept:
        first = table[table["reason"] == REFERENCE_MISMATCH].iloc[0]
        raise ValueError(
            f"{path}: no reference allele agrees with {genome.path} ({mismatches} do not; the "
            f"first is {first['ref']} at {first['chrom']}:{first['pos']}); is the FASTA of another "
            "assembly?"
        )
    return kept, table


REFERENCE_MISMATCH = "reference differs from the FASTA"


def annotate(
    source: str | os.PathLike,
    target: str | os.PathLike,
    info_of: Mapping[tuple[str, int, str, str], Sequence[str]],
    *,
    field: str,
    description: str,
) -> None:
    """Writes the file again with an INFO field of comma-separated entries for each variant.

    `info_of` maps `Variant.key` to entries without blanks, commas, semicolons or equals signs. The
    target is bgzip with a tabix index when it is named .gz or .bgz, else plain text. An older field
    of the same name is replaced.
    """
    target = Path(target)
    header = f'##INFO=<ID={field},Number=.,Type=String,Description="{description}">\n'
    with atomic.atomic_file(target) as temporary:
        with _writer(temporary, is_packed=target.suffix in (".gz", ".bgz")) as file:
            for text in _annotated(Path(source), info_of, field, header):
                file.write(text.encode())
        index = _index(temporary, target)
    if index is not None:
        os.replace(index, f"{target}.tbi")


def _annotated(path, info_of, field, header) -> Iterator[str]:
    for number, text in _lines(path):
        if text.startswith("##"):
            if not text.startswith(f"##INFO=<ID={field},"):
                yield text + "\n"
        elif text.startswith("#"):
            yield header + text + "\n"
        elif text:
            fields = _split(path, number, text)
            chrom, pos, _, ref, alts = fields[:5]
            entries = [
                e for alt in alts.split(",") for e in info_of.get((chrom, pos, ref, alt), ())
            ]
            others = [
                f for f in fields[7].split(";") if f.partition("=")[0] not in (field, ".", "")
            ]
            info = [*others, f"{field}={','.join(entries)}"] if entries else others
            fields[7] = ";".join(info) or "."
            yield "\t".join(map(str, fields)) + "\n"


def _variant(line: int, chrom: str, pos: int, name: str, ref: str, alt: str) -> Variant:
    own, other = ref.upper(), alt.upper()
    start = pos - 1
    while own and other and own[-1] == other[-1]:
        own, other = own[:-1], other[:-1]
    while own and other and own[0] == other[0]:
        own, other, start = own[1:], other[1:], start + 1
    codes = sequence.encode(other)
    return Variant(line, chrom, pos, name, ref, alt, start, start + len(own), codes)


def _refused(genome: Genome, chrom, pos, ref, alt, max_allele_bp) -> str:
    """Why an allele is left out; "" when it is not."""
    if alt in ("*", ".", ""):
        return "no alternative sequence"
    if alt.startswith("<") or "[" in alt or "]" in alt or alt[0] == "." or alt[-1] == ".":
        return "symbolic allele or breakend"
    if not _BASES.fullmatch(ref) or not _BASES.fullmatch(alt):
        return "letters other than A, C, G, T, N"
    if max(len(ref), len(alt)) > max_allele_bp:
        return f"allele longer than {max_allele_bp} bp"
    if ref.upper() == alt.upper():
        return "equal to the reference"
    if chrom not in genome.contigs:
        return "contig not in the FASTA"
    if not 0 < pos <= genome.contigs[chrom] - len(ref) + 1:
        return "beyond the end of its contig"
    there, given = genome.fetch(chrom, pos - 1, pos - 1 + len(ref)), sequence.encode(ref)
    agrees = (there == given) | (there == sequence.UNKNOWN) | (given == sequence.UNKNOWN)
    return "" if agrees.all() else REFERENCE_MISMATCH


def _records(path: Path) -> Iterator[tuple[int, list]]:
    """Line numbers and fields of the records; the position is a number."""
    for number, text in _lines(path):
        if text and not text.startswith("#"):
            yield number, _split(path, number, text)


def _split(path: Path, number: int, text: str) -> list:
    fields = text.split("\t")
    if len(fields) < len(_COLUMNS):
        raise ValueError(
            f"{path}:{number}: {len(fields)} tab-separated fields; a VCF line has at least "
            f"{len(_COLUMNS)} ({' '.join(_COLUMNS)})"
        )
    if not fields[1].isdecimal():
        raise ValueError(f"{path}:{number}: position {fields[1]!r}; expected a whole number")
    return [fields[0], int(fields[1]), *fields[2:]]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines; checks that the first one says VCF."""
    if not path.is_file():
        raise ValueError(f"{path}: no such VCF file")
    with path.open("rb") as raw:
        is_packed = raw.read(2) == b"\x1f\x8b"
    number = 0
    try:
        with gzip.open(path, "rt") if is_packed else path.open() as file:
            for number, text in enumerate(file, 1):
                if number == 1 and not text.startswith("##fileformat=VCF"):
                    raise ValueError(
                        f"{path}:1: {text[:40].strip()!r}; expected ##fileformat=VCF..."
                    )
                yield number, text.rstrip("\r\n")
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged after line {number} ({error}); copy it again") from None
    if not number:
        raise ValueError(f"{path}: is empty; expected ##fileformat=VCF...")


def _writer(path: Path, *, is_packed: bool):
    if not is_packed:
        return path.open("wb")
    import pysam

    return pysam.BGZFile(str(path), "wb")


def _index(written: Path, target: Path) -> str | None:
    """A tabix index beside a bgzip file; None for plain text and where the lines are not sorted."""
    if target.suffix not in (".gz", ".bgz"):
        return None
    import pysam

    index = f"{written}.tbi"
    try:
        pysam.tabix_index(str(written), preset="vcf", index=index, force=True, keep_original=True)
    except OSError:
        Path(index).unlink(missing_ok=True)
        return None
    return index
