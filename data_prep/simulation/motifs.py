"""Motif families of the simulated genome: what a site looks like, planting and finding sites.

A site is 10 bp: an 8 bp core that never varies between two ends that take a strong or a weak base.
The strength of a site is 1 less 0.2 for each weak end. No core resembles another one (at least 4
mismatches, on either strand) or its own reverse complement, so finding one names kind and strand.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

SITE_BP = 10
CORE_BP = 8
WEAK_END_COST = 0.2
_BASES = "ACGT"
_BREAK_ROUNDS = 40


class Motif(NamedTuple):
    """One family: `ends` are (strong, weak) bases of the first and of the last position."""

    kind: str
    core: str
    ends: tuple[str, str]


MOTIFS = (
    Motif("housekeeping", "TGAGTGGC", ("CT", "AG")),
    Motif("developmental", "GCGCTTAC", ("AG", "CT")),
    Motif("silencer", "CGCGGATT", ("CA", "GT")),
    Motif("insulator", "GGCAAGGT", ("GT", "AC")),
    Motif("promoter_strength", "CCGGTGAA", ("AC", "TG")),
)
KINDS = tuple(motif.kind for motif in MOTIFS)


class Sites(NamedTuple):
    """Planted sites, one entry each; `start` is the left end of the 10 bp on the + strand.

    `variant` counts through the ends: bit 1 set = first end weak, bit 0 set = last end weak (in
    motif orientation).
    """

    chrom: Int64[np.ndarray, " n"]
    start: Int64[np.ndarray, " n"]
    kind: Int64[np.ndarray, " n"]
    minus: Bool[np.ndarray, " n"]
    variant: Int64[np.ndarray, " n"]

    @property
    def strength(self) -> np.ndarray:
        """Strength of each site: 1, 0.8 or 0.6."""
        return 1.0 - WEAK_END_COST * ((self.variant >> 1) + (self.variant & 1))


def _bases(text: str) -> np.ndarray:
    return np.array([_BASES.index(letter) for letter in text], np.uint8)


def _patterns() -> np.ndarray:
    """Bases of every (kind, variant, strand): uint8 [kinds, 4, 2, SITE_BP]."""
    table = np.zeros((len(MOTIFS), 4, 2, SITE_BP), np.uint8)
    for index, motif in enumerate(MOTIFS):
        for variant in range(4):
            text = motif.ends[0][variant >> 1] + motif.core + motif.ends[1][variant & 1]
            forward = _bases(text)
            table[index, variant, 0] = forward
            table[index, variant, 1] = 3 - forward[::-1]
    return table


PATTERNS = _patterns()


def _core_table() -> np.ndarray:
    """8-mer number -> 0 (no core) or 1 + 2 * kind + (1 on the minus strand)."""
    table = np.zeros(4**CORE_BP, np.uint8)
    powers = 4 ** np.arange(CORE_BP - 1, -1, -1)
    for kind in range(len(MOTIFS)):
        for strand in range(2):
            core = PATTERNS[kind, 0, strand, 1:-1].astype(np.int64)
            table[int(core @ powers)] = 1 + 2 * kind + strand
    return table


_CORES = _core_table()


def find_cores(bases: UInt8[np.ndarray, " L"]) -> tuple[np.ndarray, np.ndarray]:
    """Every motif core in a sequence of 2-bit bases.

    Returns (start, label): where the 8 bp begin, and 2 * kind + (1 on the minus strand).
    """
    if len(bases) < CORE_BP:
        return np.zeros(0, np.int64), np.zeros(0, np.uint8)
    count = len(bases) - CORE_BP + 1
    number = np.zeros(count, np.uint16)
    for offset in range(CORE_BP):
        number <<= 2
        number |= bases[offset : offset + count]
    labels = _CORES[number]
    starts = np.flatnonzero(labels)
    return starts, labels[starts] - 1


def plant(bases: UInt8[np.ndarray, " L"], sites: Sites) -> Bool[np.ndarray, " L"]:
    """Writes the sites of one chromosome into its bases, in place; returns what they cover."""
    covered = np.zeros(len(bases), bool)
    where = sites.start[:, None] + np.arange(SITE_BP)
    bases[where] = PATTERNS[sites.kind, sites.variant, sites.minus.astype(np.int64)]
    covered[where] = True
    return covered


def break_chance_cores(
    bases: UInt8[np.ndarray, " L"],
    covered: Bool[np.ndarray, " L"],
    sites: Sites,
    rng: np.random.Generator,
) -> int:
    """Changes one base in every core that nobody planted, in place, until none is left.

    Planted bases never change. Returns how many bases were changed.

    Raises:
      ValueError: cores remain after many rounds (two planted sites overlap).
    """
    planted = np.zeros(len(bases), bool)
    planted[sites.start + 1] = True
    middle_first = np.array([3, 4, 2, 5, 1, 6, 0, 7])
    changed = 0
    for _ in range(_BREAK_ROUNDS):
        starts, _ = find_cores(bases)
        starts = starts[~planted[starts]]
        if not len(starts):
            return changed
        candidates = starts[:, None] + middle_first
        free = ~covered[candidates]
        target = np.unique(
            candidates[np.arange(len(starts)), free.argmax(axis=1)][free.any(axis=1)]
        )
        bases[target] = (bases[target] + rng.integers(1, 4, len(target))) % 4
        changed += len(target)
    raise ValueError(
        f"simulate: {len(starts)} motif cores could not be removed from the background"
    )


def jaspar_text() -> str:
    """The families as JASPAR count matrices (100 sites each)."""
    lines = []
    for number, motif in enumerate(MOTIFS, 1):
        counts = np.zeros((4, SITE_BP), int)
        for position, letters in ((0, motif.ends[0]), (SITE_BP - 1, motif.ends[1])):
            counts[_bases(letters), position] = 50
        counts[_bases(motif.core), np.arange(1, SITE_BP - 1)] = 100
        lines.append(f">SIM{number:04d}.1\t{motif.kind}")
        for letter, row in zip(_BASES, counts, strict=True):
            lines.append(f"{letter}  [ " + " ".join(f"{value:3d}" for value in row) + " ]")
    return "\n".join(lines) + "\n"
