"""Sizes and constants of the simulated genome: what a user may choose, and what is planted.

Two frozen dataclasses: `Settings` (how much to make) and `Rule` (what is planted in it). Both go
into `truth.json` as they are.
"""

import dataclasses
import zlib

import numpy as np

CHROMOSOMES = tuple(f"chr{number}" for number in range(1, 12)) + ("chrX",)
CELLS = ("alpha", "beta")
ASSAYS = ("dnase", "h3k27ac")
ELEMENT_CLASSES = ("housekeeping", "developmental", "silencer", "insulated")
PROMOTER_CLASSES = ("housekeeping", "developmental")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of a simulation; two equal settings give the same bytes.

    Attributes:
      seed: the only source of randomness.
      genes_per_chromosome: mean over the 12 chromosomes; the first has 15 % more, the last 15 %
      less.
      gene_spacing_bp: mean distance between neighbouring TSSs, at least 4,000.
      elements_per_gene: aimed mean number of elements of one cell type within `max_distance_bp` of
      a TSS.
      remote_elements_per_chromosome: elements in a stretch without genes, farther from any TSS than
        `max_distance_bp`: they belong to no gene, but show what makes an element active.
      max_distance_bp: elements farther from a TSS than this are not linked to it and have no effect
      on it.
      reads_per_element: mean reads of one assay on one summit of typical activity.
      background_reads_per_kb: reads of one assay that fall anywhere.
    """

    seed: int = 0
    genes_per_chromosome: int = 420
    gene_spacing_bp: int = 12_000
    elements_per_gene: float = 5.0
    remote_elements_per_chromosome: int = 200
    max_distance_bp: int = 100_000
    reads_per_element: float = 28.0
    background_reads_per_kb: float = 8.0

    def __post_init__(self):
        lowest = {
            "seed": 0,
            "genes_per_chromosome": 2,
            "gene_spacing_bp": 4_000,
            "elements_per_gene": 0.1,
            "remote_elements_per_chromosome": 0,
            "max_distance_bp": 5_000,
            "reads_per_element": 1.0,
            "background_reads_per_kb": 0.1,
        }
        for name, least in lowest.items():
            value = getattr(self, name)
            if not value >= least:
                raise ValueError(f"simulate: {name} is {value}, expected at least {least}")


@dataclasses.dataclass(frozen=True)
class Rule:
    """Constants of the planted rule; expression is in log10 RPKM, activity in natural logarithms.

    Activity unit: 1 is the activity of a typical element, `Settings.reads_per_element` expected
    reads.
    """

    # Elements.
    element_class_shares: tuple[float, ...] = (0.34, 0.34, 0.16, 0.16)
    sites_per_summit_shares: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)
    active_share: float = 0.75
    element_log_base: float = -2.0
    element_chromatin_sd_shared: float = 0.20
    element_chromatin_sd_cell: float = 0.20
    # Promoters.
    promoter_log_base: float = -2.3
    promoter_chromatin_sd_shared: float = 0.35
    promoter_chromatin_sd_cell: float = 0.25
    strength_site_shares: tuple[float, ...] = (0.30, 0.28, 0.24, 0.18)
    # Reads.
    overdispersion_shape: float = 15.0
    # Contact: power law of distance, flat below contact_floor_bp, 1 there.
    contact_gamma: float = 1.024238616787792
    contact_floor_bp: int = 5_000
    # Expression.
    class_offset: float = 0.34
    promoter_activity_weight: float = 0.58
    strength_weight: float = 0.52
    element_weight: float = 0.95
    element_limit: float = 1.2
    compatibility: tuple[tuple[float, ...], ...] = (
        (1.0, 0.1, -0.7, 0.0),
        (0.1, 1.0, -1.0, 0.0),
    )
    mrna_weights: tuple[tuple[str, float], ...] = (
        ("UTR3LEN_log10zscore", -0.16),
        ("CDSLEN_log10zscore", -0.14),
        ("INTRONLEN_log10zscore", -0.08),
        ("ORFEXONDENSITY", 0.04),
        ("UTR5GC", 0.6),
    )
    noise_share_of_sd: float = 0.48
    floor_share: float = 0.17
    floor_log10_rpkm: float = -1.0
    driver_min_change: float = 0.1
    # Natural-log activity per full-strength site, per cell type.
    site_weights: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = (
        (
            "alpha",
            (
                ("housekeeping", 0.95),
                ("developmental", 0.85),
                ("silencer", 0.9),
                ("insulator", 0.9),
                ("promoter_strength", 0.60),
            ),
        ),
        (
            "beta",
            (
                ("housekeeping", 0.85),
                ("developmental", 0.95),
                ("silencer", 0.9),
                ("insulator", 0.9),
                ("promoter_strength", 0.60),
            ),
        ),
    )

    def weights_of(self, cell: str) -> dict[str, float]:
        """Activity per site, motif kind -> weight, of one cell type."""
        return dict(dict(self.site_weights)[cell])


def stream(seed: int, *names: str) -> np.random.Generator:
    """A generator for each named part, so that one part's draws never shift another's."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])
