"""What mutagenesis and removal are measured on: genes with a given number of elements, mutants."""

import numpy as np
from jaxtyping import Int, UInt8

from tests.benchmarks.setting import Setting

CHECKED_MUTANTS = 64  # of a whole element, compared with the reference; it scores them at once
CHECKED_REMOVALS = 8
CHECKED_GENES = 4  # of a pass over many


def gene_with(setting: Setting, elements: int) -> int:
    """A gene with that many elements, and among those one with a typical number of bases.

    Raises:
      ValueError: there is none.
    """
    genes = setting.genes
    candidates = np.flatnonzero(genes.counts == elements)
    if not len(candidates):
        raise ValueError(f"no gene has {elements} elements ({genes.source})")
    bases = [
        genes.length[genes.element[genes.first[g] : genes.first[g + 1]]].sum() for g in candidates
    ]
    return int(candidates[np.argsort(bases, kind="stable")[len(bases) // 2]])


def whole_chromosomes(setting: Setting, least: int) -> Int[np.ndarray, "K"]:
    """All genes of the first chromosomes, of as many as hold `least` genes."""
    chrom = setting.genes.chrom
    names, first = np.unique(chrom, return_index=True)
    chosen: list[str] = []
    for name in names[np.argsort(first)]:
        chosen.append(name)
        if np.isin(chrom, chosen).sum() >= least:
            break
    return np.flatnonzero(np.isin(chrom, chosen))


def random_window(setting: Setting, window_bp: int) -> UInt8[np.ndarray, "L"]:
    """A window of random bases."""
    rng = np.random.default_rng([setting.genes.seed, window_bp])
    return (1 << rng.integers(4, size=window_bp)).astype(np.uint8)


def mutants(codes: UInt8[np.ndarray, "L"]) -> UInt8[np.ndarray, "M L"]:
    """All 3 L substitutions, position by position, new bases in the order A, C, G, T."""
    letters = np.array([1, 2, 4, 8], np.uint8)
    position = np.repeat(np.arange(len(codes)), 3)
    new = np.concatenate([letters[letters != code] for code in codes])
    every = np.repeat(codes[None], len(position), axis=0)
    every[np.arange(len(position)), position] = new
    return every


def spread(count: int, wanted: int) -> Int[np.ndarray, "K"]:
    """`wanted` of `count` places, evenly, both ends among them."""
    return np.unique(np.linspace(0, count - 1, wanted).round().astype(int))
