"""What mutagenesis and removal are measured on: genes with a given number of elements, mutants."""

import numpy as np
from jaxtyping import Int, UInt8

from tests.benchmarks import occupancy
from tests.benchmarks.setting import Setting

CHECKED_MUTANTS = 64  # of a whole element, compared with the reference; it scores them at once
CHECKED_REMOVALS = 8
CHECKED_GENES = 4  # of a pass over many


def gene_with(setting: Setting, elements: int) -> int:
    """A gene with that many elements, and among those one with a typical number of bases.

    Raises:
      ValueError: there is none.
    """
    return int(genes_with(setting, elements, 1)[0])


def gene_with_long_element(setting: Setting, elements: int) -> tuple[int, int]:
    """A gene with that many elements of which one fills the window, and that element's slot.

    Raises:
      ValueError: there is none.
    """
    genes = setting.genes
    for gene in np.flatnonzero(genes.counts == elements).tolist():
        own = genes.element[genes.first[gene] : genes.first[gene + 1]]
        is_long = genes.length[own] == occupancy.WINDOW_BP
        if is_long.any():
            return gene, 1 + int(np.argmax(is_long))
    raise ValueError(f"no gene with {elements} elements has one of {occupancy.WINDOW_BP:,} bases")


def genes_with(setting: Setting, elements: int, count: int) -> Int[np.ndarray, "K"]:
    """Genes with that many elements, of which no two share one: first that with the median number
    of bases, then its neighbours in that order.

    Raises:
      ValueError: there are not so many.
    """
    genes = setting.genes
    candidates = np.flatnonzero(genes.counts == elements)
    own = {g: genes.element[genes.first[g] : genes.first[g + 1]] for g in candidates.tolist()}
    by_bases = sorted(own, key=lambda g: genes.length[own[g]].sum())
    middle = len(by_bases) // 2
    taken: set[int] = set()
    chosen: list[int] = []
    for place in sorted(range(len(by_bases)), key=lambda place: abs(place - middle)):
        gene = by_bases[place]
        if len(chosen) < count and taken.isdisjoint(own[gene].tolist()):
            chosen.append(gene)
            taken.update(own[gene].tolist())
    if len(chosen) < count:
        raise ValueError(
            f"{len(chosen)} genes have {elements} elements of their own, not {count} "
            f"({genes.source})"
        )
    return np.array(chosen)


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
