"""The planted rule: true activities and expression of one cell type.

Activity (natural logarithm) = base + site weights of the motifs + a chromatin term that no sequence
shows. Expression (log10 RPKM) = intercept + class offset + weight x log promoter activity +
strength sites + limited sum over elements + mRNA terms + noise; see `data_prep.simulate` for the
rule in words.
"""

import dataclasses

import numpy as np
from jaxtyping import Float64, Int64

from data_prep.simulation.layout import Layout
from data_prep.simulation.motifs import KINDS
from data_prep.simulation.settings import CELLS, Rule, Settings, stream


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Every gene x active element within the distance limit, ordered by gene, then element.

    `distance` is signed: the element's floor midpoint minus TSS. `effect` is the element's share of
    the sum before the limit; `removal_change` is how planted expression changes when this element
    alone is taken away.
    """

    gene: Int64[np.ndarray, " n"]
    element: Int64[np.ndarray, " n"]
    distance: Int64[np.ndarray, " n"]
    contact: Float64[np.ndarray, " n"]
    compatibility: Float64[np.ndarray, " n"]
    effect: Float64[np.ndarray, " n"]
    removal_change: Float64[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Truth:
    """What is planted in one cell type; expression terms are log10 RPKM, one value a gene."""

    summit_activity: Float64[np.ndarray, " M"]
    element_activity: Float64[np.ndarray, " E"]
    promoter_activity: Float64[np.ndarray, " G"]
    pairs: Pairs
    terms: dict[str, Float64[np.ndarray, " G"]]
    planted: Float64[np.ndarray, " G"]
    noise: Float64[np.ndarray, " G"]
    rpkm: Float64[np.ndarray, " G"]


def plant_truth(
    settings: Settings, rule: Rule, layout: Layout, mrna: dict[str, np.ndarray], cell: str
) -> Truth:
    """Applies the rule to one cell type. `mrna` holds the eight published features by name."""
    summit_activity, promoter_activity = _activities(settings, rule, layout, cell)
    elements = layout.elements
    element_activity = np.bincount(
        elements.summit_element, weights=summit_activity, minlength=len(elements.kind)
    )
    pairs, limited = _element_term(settings, rule, layout, element_activity, cell)
    strength = site_sums(layout, ["promoter_strength"])
    terms = {
        "class": np.where(layout.genes.housekeeping, rule.class_offset, -rule.class_offset),
        "promoter_activity": rule.promoter_activity_weight * np.log(promoter_activity),
        "promoter_strength": rule.strength_weight * strength,
        "elements": limited,
        "mrna": sum(weight * mrna[name] for name, weight in rule.mrna_weights),
    }
    signal = np.sum(list(terms.values()), axis=0)
    rng = stream(settings.seed, "noise", cell)
    noise = rule.noise_share_of_sd * signal.std() * rng.standard_normal(len(signal))
    # The intercept puts the floor share of the genes below the floor.
    floor = np.quantile(signal + noise, rule.floor_share)
    terms["intercept"] = np.full(len(signal), rule.floor_log10_rpkm - floor)
    planted = signal + terms["intercept"]
    latent = planted + noise
    # With the six digits that the expression table has, so that labels can be recomputed from it.
    rpkm = np.array([float(f"{value:.6g}") for value in 10.0**latent])
    rpkm[latent <= rule.floor_log10_rpkm] = 0.0
    return Truth(
        summit_activity, element_activity, promoter_activity, pairs, terms, planted, noise, rpkm
    )


def site_sums(layout: Layout, kinds: list[str]) -> np.ndarray:
    """Summed site strength of the given motif kinds in each promoter."""
    wanted = np.isin(layout.sites.kind, [KINDS.index(kind) for kind in kinds]) & (
        layout.site_gene >= 0
    )
    return np.bincount(
        layout.site_gene[wanted],
        weights=layout.sites.strength[wanted],
        minlength=len(layout.genes.tss),
    )


def limit(total: np.ndarray, rule: Rule) -> np.ndarray:
    """Saturates summed element effects: odd, slope 1 at zero, within +-element_limit."""
    return rule.element_limit * np.tanh(total / rule.element_limit)


def power_law(distance_bp: np.ndarray, rule: Rule) -> np.ndarray:
    """True contact: 1 up to the contact floor, then falling as a power of the distance."""
    away = np.maximum(np.abs(distance_bp), rule.contact_floor_bp) / rule.contact_floor_bp
    return away**-rule.contact_gamma


def _activities(settings, rule, layout, cell) -> tuple[np.ndarray, np.ndarray]:
    """True activity of each summit (0 in elements closed in this cell type) and promoter."""
    weight = np.array([rule.weights_of(cell)[kind] for kind in KINDS])
    site = weight[layout.sites.kind] * layout.sites.strength
    elements, count = layout.elements, len(layout.genes.tss)
    in_promoter = layout.site_gene >= 0
    summit = np.bincount(
        layout.site_summit[~in_promoter], site[~in_promoter], minlength=len(elements.summit)
    )
    promoter = np.bincount(layout.site_gene[in_promoter], site[in_promoter], minlength=count)
    shared, own = stream(settings.seed, "chromatin"), stream(settings.seed, "chromatin", cell)
    element_term = rule.element_chromatin_sd_shared * shared.standard_normal(len(elements.kind))
    element_term += rule.element_chromatin_sd_cell * own.standard_normal(len(elements.kind))
    promoter_term = rule.promoter_chromatin_sd_shared * shared.standard_normal(count)
    promoter_term += rule.promoter_chromatin_sd_cell * own.standard_normal(count)
    active = elements.active[CELLS.index(cell)][elements.summit_element]
    summit_log = rule.element_log_base + summit + element_term[elements.summit_element]
    promoter_log = rule.promoter_log_base + promoter + promoter_term
    return np.where(active, np.exp(summit_log), 0.0), np.exp(promoter_log)


def _element_term(settings, rule, layout, activity, cell) -> tuple[Pairs, np.ndarray]:
    """All pairs of one cell type with their effects, and each gene's limited sum."""
    genes, elements = layout.genes, layout.elements
    active = np.flatnonzero(elements.active[CELLS.index(cell)])
    gene, element = pairs_within(layout, active, settings.max_distance_bp)
    distance = (elements.start[element] + elements.end[element]) // 2 - genes.tss[gene]
    contact = power_law(distance, rule)
    table = np.array(rule.compatibility)
    compatibility = table[1 - genes.housekeeping[gene].astype(np.int64), elements.kind[element]]
    effect = rule.element_weight * compatibility * activity[element] * contact
    total = np.bincount(gene, weights=effect, minlength=len(genes.tss))
    limited = limit(total, rule)
    change = limit(total[gene] - effect, rule) - limited[gene]
    return Pairs(gene, element, distance, contact, compatibility, effect, change), limited


def pairs_within(
    layout: Layout, element: np.ndarray, distance_bp: int
) -> tuple[np.ndarray, np.ndarray]:
    """(gene, element) pairs with |midpoint - TSS| <= distance_bp, gene-major."""
    genes, elements = layout.genes, layout.elements
    spacing = int(layout.length.max()) + distance_bp + 1
    middle = (elements.start[element] + elements.end[element]) // 2 + elements.chrom[
        element
    ] * spacing
    tss = genes.tss + genes.chrom * spacing
    first = np.searchsorted(middle, tss - distance_bp, "left")
    last = np.searchsorted(middle, tss + distance_bp, "right")
    count = last - first
    gene = np.repeat(np.arange(len(tss)), count)
    inside = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return gene, element[np.repeat(first, count) + inside]
