"""Bases of the simulated genome, and its FASTA file.

Outside planted sites the genome holds no motif core at all: whatever a scan finds was planted.
"""

from pathlib import Path

import numpy as np
import pysam

from data_prep.simulation.layout import Layout
from data_prep.simulation.motifs import Sites, break_chance_cores, plant
from data_prep.simulation.settings import CHROMOSOMES, stream

_LINE_BP = 80
_TELOMERE_BP = 2_000
_GC_SHARE = 0.36
_MASKED_SHARE = 0.3
_MASKED_BP = 300


def draw_bases(layout: Layout, seed: int) -> list[np.ndarray]:
    """2-bit bases (A 0, C 1, G 2, T 3) of each chromosome, sites planted, chance cores broken."""
    gc = round(128 * _GC_SHARE)
    table = np.repeat(np.array([0, 1, 2, 3], np.uint8), [128 - gc, gc, gc, 128 - gc])
    chromosomes = []
    for index, (name, length) in enumerate(zip(CHROMOSOMES, layout.length, strict=True)):
        rng = stream(seed, "bases", name)
        bases = table[np.frombuffer(rng.bytes(int(length)), np.uint8)]
        sites = Sites(*(values[layout.sites.chrom == index] for values in layout.sites))
        covered = plant(bases, sites)
        break_chance_cores(bases, covered, sites, rng)
        chromosomes.append(bases)
    return chromosomes


def write_fasta(path: Path, layout: Layout, bases: list[np.ndarray], seed: int) -> None:
    """Writes the genome and its `.fai` index; some stretches in lower case, gaps and ends N."""
    letters = np.frombuffer(b"ACGT", np.uint8)
    with open(path, "wb") as stream_out:
        for index, name in enumerate(CHROMOSOMES):
            text = letters[bases[index]]
            _soft_mask(text, stream(seed, "mask", name))
            for start, end in unknown_intervals(layout, index):
                text[start:end] = ord("N")
            stream_out.write(f">{name}\n".encode())
            whole = len(text) // _LINE_BP * _LINE_BP
            lines = np.full((whole // _LINE_BP, _LINE_BP + 1), ord("\n"), np.uint8)
            lines[:, :-1] = text[:whole].reshape(-1, _LINE_BP)
            stream_out.write(lines.tobytes())
            if whole < len(text):
                stream_out.write(text[whole:].tobytes() + b"\n")
    pysam.faidx(str(path))


def unknown_intervals(layout: Layout, index: int) -> list[tuple[int, int]]:
    """Stretches of N; the last chromosome begins with known bases, because a gene does."""
    length = int(layout.length[index])
    intervals = [(length - _TELOMERE_BP, length)]
    if index < len(CHROMOSOMES) - 1:
        intervals.append((0, _TELOMERE_BP))
    intervals += [(int(start), int(end)) for chrom, start, end in layout.gap if chrom == index]
    return intervals


def _soft_mask(text: np.ndarray, rng: np.random.Generator) -> None:
    """Turns random stretches to lower case, in place."""
    starts = rng.integers(0, len(text), round(len(text) * _MASKED_SHARE / _MASKED_BP))
    steps = np.zeros(len(text) + 1, np.int32)
    np.add.at(steps, starts, 1)
    np.add.at(steps, np.minimum(len(text), starts + _MASKED_BP), -1)
    text[np.cumsum(steps[:-1]) > 0] |= 0x20
