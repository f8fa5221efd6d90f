"""Where things stand in the simulated genome: genes, elements, gaps, blacklist and sites.

Everything here is shared by the cell types. Coordinates are 0-based half-open; a TSS is a position.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int64

from data_prep.simulation.motifs import KINDS, Sites
from data_prep.simulation.settings import CELLS, CHROMOSOMES, Rule, Settings, stream

SUMMIT_FLANK_BP = 100
_EDGE_BP = 22_000
_MIN_TSS_SPACING_BP = 3_000
_TSS_CLEARANCE_BP = 1_400
_ELEMENT_CLEARANCE_BP = 500
_NEAREST_HOST_BP, _FARTHEST_HOST_BP = 1_500, 60_000
_SUMMIT_STEP_BP = (112, 126)
_SUMMIT_COUNT_SHARES = (0.94, 0.045, 0.015)
_GENES_PER_BLOCK = 10
_BLOCK_SHAPE, _LEAST_BLOCK_WEIGHT, _HUB_WEIGHT = 0.8, 0.15, 45.0
_FEWEST_BLOCKS_WITH_HUB = 5
_GAP_BP, _BLACKLIST_BP = 5_000, 800
_SLOT_BP = 16
_REMOTE_SPACING_BP, _REMOTE_JITTER_BP, _REMOTE_EDGE_BP = 1_500, 250, 4_000
_SUMMIT_SLOTS, _PROMOTER_SLOTS = 7, 12


@dataclasses.dataclass(frozen=True)
class Genes:
    """Genes in genome order; `housekeeping` is the promoter class."""

    chrom: Int64[np.ndarray, " G"]
    tss: Int64[np.ndarray, " G"]
    minus: Bool[np.ndarray, " G"]
    body_start: Int64[np.ndarray, " G"]
    body_end: Int64[np.ndarray, " G"]
    housekeeping: Bool[np.ndarray, " G"]


@dataclasses.dataclass(frozen=True)
class Elements:
    """Distal elements in genome order, and their summits: one, or a few adjacent ones merged.

    `kind` indexes ELEMENT_CLASSES; `summit_element` says which element a summit belongs to;
    `active` has one row per cell type.
    """

    chrom: Int64[np.ndarray, " E"]
    start: Int64[np.ndarray, " E"]
    end: Int64[np.ndarray, " E"]
    kind: Int64[np.ndarray, " E"]
    active: Bool[np.ndarray, "C E"]
    summit: Int64[np.ndarray, " M"]
    summit_element: Int64[np.ndarray, " M"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The whole map; `gap` and `blacklist` rows are (chromosome index, start, end)."""

    length: Int64[np.ndarray, " K"]
    genes: Genes
    elements: Elements
    gap: Int64[np.ndarray, "g 3"]
    blacklist: Int64[np.ndarray, "b 3"]
    sites: Sites
    site_gene: Int64[np.ndarray, " n"]
    site_summit: Int64[np.ndarray, " n"]


def lay_out(settings: Settings, rule: Rule) -> Layout:
    """Draws the map of a simulated genome."""
    length, genes, block = _place_genes(settings)
    gap, blacklist = _reserve(length, genes)
    elements = _place_elements(
        settings, rule, length, genes, block, np.concatenate([gap, blacklist])
    )
    sites, site_gene, site_summit = _place_sites(settings, rule, genes, elements)
    return Layout(length, genes, elements, gap, blacklist, sites, site_gene, site_summit)


def _place_genes(settings: Settings) -> tuple[np.ndarray, Genes, np.ndarray]:
    """Chromosome lengths, genes, and the block (a run of neighbouring genes) of each gene."""
    rng = stream(settings.seed, "genes")
    counts = np.rint(settings.genes_per_chromosome * np.linspace(1.15, 0.85, len(CHROMOSOMES)))
    counts = np.maximum(2, counts).astype(np.int64)
    extra = settings.gene_spacing_bp - _MIN_TSS_SPACING_BP
    lengths, positions, chroms, blocks = [], [], [], []
    for index, count in enumerate(counts):
        steps = _MIN_TSS_SPACING_BP + rng.gamma(1.2, extra / 1.2, count).astype(np.int64)
        # The last chromosome's first promoter window begins before the chromosome does.
        steps[0] = 700 if index == len(counts) - 1 else _EDGE_BP + steps[0] // 4
        tss = np.cumsum(steps)
        end = int(tss[-1]) + _EDGE_BP + int(rng.integers(0, 4_000))
        lengths.append(end + _remote_bp(settings))
        positions.append(tss)
        chroms.append(np.full(count, index))
        blocks.append(np.arange(count) // _GENES_PER_BLOCK)
    tss, chrom, length = np.concatenate(positions), np.concatenate(chroms), np.array(lengths)
    minus = rng.random(len(tss)) < 0.5
    body = np.clip(rng.lognormal(np.log(7_000), 0.7, len(tss)), 800, 60_000).astype(np.int64)
    genes = Genes(
        chrom=chrom,
        tss=tss,
        minus=minus,
        # A minus-strand TSS is the last base of the gene.
        body_start=np.where(minus, np.maximum(0, tss + 1 - body), tss),
        body_end=np.where(minus, tss + 1, np.minimum(length[chrom], tss + body)),
        housekeeping=rng.random(len(tss)) < 0.5,
    )
    return length, genes, np.concatenate(blocks)


def _reserve(length: np.ndarray, genes: Genes) -> tuple[np.ndarray, np.ndarray]:
    """One assembly gap and one blacklisted region a chromosome, between far TSSs."""
    gaps, blacklist = [], []
    for index, size in enumerate(length):
        tss = genes.tss[genes.chrom == index]
        edges = np.concatenate([[4_000], tss, [min(size, tss[-1] + _EDGE_BP) - 4_000]])
        widest = np.argsort(-np.diff(edges), kind="stable")[:2]
        for rows, width, place in (
            (gaps, _GAP_BP, widest[0]),
            (blacklist, _BLACKLIST_BP, widest[1]),
        ):
            left, right = edges[place], edges[place + 1]
            if right - left >= width + 2 * _TSS_CLEARANCE_BP:
                start = int(left + right - width) // 2
                rows.append((index, start, start + width))
    return np.array(gaps, np.int64).reshape(-1, 3), np.array(blacklist, np.int64).reshape(-1, 3)


def _place_elements(settings, rule, length, genes, block, reserved) -> Elements:
    """Elements around host genes; blocks of genes are rich, poor or empty."""
    rng = stream(settings.seed, "elements")
    weight = _block_weights(genes, block, rng)
    expected = settings.elements_per_gene * len(genes.tss) / rule.active_share
    wanted = max(1, round(expected * settings.gene_spacing_bp / (2 * settings.max_distance_bp)))
    host = rng.choice(len(weight), size=2 * wanted, p=weight / weight.sum())
    reach = np.log([_NEAREST_HOST_BP, _FARTHEST_HOST_BP])
    away = np.exp(rng.uniform(*reach, len(host))).astype(np.int64)
    centre = genes.tss[host] + np.where(rng.random(len(host)) < 0.5, -away, away)
    remote_chrom, remote = _remote_centres(settings, length, rng)
    chrom = np.concatenate([genes.chrom[host], remote_chrom])
    centre = np.concatenate([centre, remote])
    summits = rng.choice([1, 2, 3], size=len(centre), p=_SUMMIT_COUNT_SHARES)
    steps = rng.integers(*_SUMMIT_STEP_BP, size=(len(centre), 2))
    offset = np.pad(np.cumsum(steps, axis=1), ((0, 0), (1, 0)))
    last = centre + offset[np.arange(len(centre)), summits - 1]

    keep = np.arange(len(centre)) < len(host)
    keep &= (centre > 3_000) & (last < length[chrom] - 3_000)
    keep &= _clear(
        chrom, centre, last, np.stack([genes.chrom, genes.tss, genes.tss + 1], 1), _TSS_CLEARANCE_BP
    )
    keep &= _clear(chrom, centre, last, reserved, _ELEMENT_CLEARANCE_BP)
    order = np.flatnonzero(keep)[np.lexsort((centre[keep], chrom[keep]))]
    chosen, end = [], (-1, 0)
    for index in order.tolist():
        if chrom[index] != end[0] or centre[index] - end[1] > _ELEMENT_CLEARANCE_BP:
            chosen.append(index)
            end = (chrom[index], last[index])
    chosen = np.array(chosen, np.int64)[np.sort(rng.permutation(len(chosen))[:wanted])]
    chosen = np.concatenate([chosen, np.arange(len(host), len(centre))])
    chosen = chosen[np.lexsort((centre[chosen], chrom[chosen]))]

    present = np.arange(3) < summits[chosen, None]
    all_summits = centre[chosen, None] + offset[chosen]
    active = rng.random((len(CELLS), len(chosen))) < rule.active_share
    rescue = rng.integers(0, len(CELLS), len(chosen))
    active[rescue, np.arange(len(chosen))] |= ~active.any(axis=0)
    return Elements(
        chrom=chrom[chosen],
        start=centre[chosen] - SUMMIT_FLANK_BP,
        end=last[chosen] + SUMMIT_FLANK_BP,
        kind=rng.choice(
            len(rule.element_class_shares), size=len(chosen), p=rule.element_class_shares
        ),
        active=active,
        summit=all_summits[present],
        summit_element=np.repeat(np.arange(len(chosen)), summits[chosen]),
    )


def _remote_bp(settings: Settings) -> int:
    """Length of the stretch without genes at the end of each chromosome."""
    count = settings.remote_elements_per_chromosome
    if not count:
        return 0
    return settings.max_distance_bp + count * _REMOTE_SPACING_BP + _REMOTE_EDGE_BP


def _remote_centres(settings, length, rng) -> tuple[np.ndarray, np.ndarray]:
    """Chromosome and first summit of the elements that lie too far from any TSS to belong to a
    gene.
    """
    count = settings.remote_elements_per_chromosome
    chrom = np.repeat(np.arange(len(length)), count)
    place = np.tile(np.arange(count), len(length)) * _REMOTE_SPACING_BP
    jitter = rng.integers(-_REMOTE_JITTER_BP, _REMOTE_JITTER_BP, len(chrom))
    first = length[chrom] - count * _REMOTE_SPACING_BP - _REMOTE_EDGE_BP
    return chrom, first + place + jitter


def _block_weights(genes: Genes, block: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How likely each gene hosts an element; some chromosomes have a hub, some end in a desert."""
    weight = np.zeros(len(block))
    for index in range(len(CHROMOSOMES)):
        here = genes.chrom == index
        blocks = block[here]
        draw = _LEAST_BLOCK_WEIGHT + rng.gamma(_BLOCK_SHAPE, 1.0, blocks.max() + 1)
        if index % 4 == 0 and len(draw) >= _FEWEST_BLOCKS_WITH_HUB:
            draw[len(draw) // 2] = _HUB_WEIGHT
        if index % 4 == 1:
            draw[-1] = 0.0
        weight[here] = draw[blocks]
    return weight


def _clear(chrom, first, last, others, margin) -> np.ndarray:
    """Whether each span keeps `margin` bp from all `others` (chromosome index, start, end)."""
    clear = np.ones(len(first), bool)
    for index in range(len(CHROMOSOMES)):
        here = np.flatnonzero(chrom == index)
        start, end = others[others[:, 0] == index, 1:].T
        near = (last[here, None] > start - margin) & (first[here, None] < end + margin)
        clear[here] = ~near.any(axis=1)
    return clear


def _place_sites(settings, rule, genes, elements) -> tuple[Sites, np.ndarray, np.ndarray]:
    """Draws motif sites: which kinds each promoter and summit carries, and where in it."""
    rng = stream(settings.seed, "sites")
    promoter_kinds = _promoter_kinds(rule, genes, rng)
    summit_kinds = _summit_kinds(rule, elements, rng)
    promoter_start = _slots(rng, genes.tss, _PROMOTER_SLOTS, promoter_kinds.shape[1])
    summit_start = _slots(rng, elements.summit, _SUMMIT_SLOTS, summit_kinds.shape[1])
    in_promoter, in_summit = promoter_kinds >= 0, summit_kinds >= 0
    gene, _ = np.nonzero(in_promoter)
    summit, _ = np.nonzero(in_summit)
    count = len(gene) + len(summit)
    sites = Sites(
        chrom=np.concatenate([genes.chrom[gene], elements.chrom[elements.summit_element[summit]]]),
        start=np.concatenate([promoter_start[in_promoter], summit_start[in_summit]]),
        kind=np.concatenate([promoter_kinds[in_promoter], summit_kinds[in_summit]]),
        minus=rng.random(count) < 0.5,
        variant=rng.integers(0, 4, count),
    )
    nowhere = np.full(len(summit), -1), np.full(len(gene), -1)
    return sites, np.concatenate([gene, nowhere[0]]), np.concatenate([nowhere[1], summit])


def _promoter_kinds(rule: Rule, genes: Genes, rng: np.random.Generator) -> np.ndarray:
    """Kinds of up to 7 sites a promoter (-1 none): 1-4 of its class, 0-3 of strength.

    Promoters with more strength sites have fewer class sites on average, so that promoter activity,
    which both raise, hardly tells the strength.
    """
    count = len(genes.tss)
    strength = rng.choice(4, size=count, p=rule.strength_site_shares)
    own = np.rint(3.2 - 0.6 * strength + rng.uniform(-1.5, 1.5, count)).astype(np.int64).clip(1, 4)
    # KINDS begins with the motifs of the two activator classes.
    class_kind = np.where(genes.housekeeping[:, None], 0, 1)
    kinds = np.full((count, 7), -1)
    kinds[:, :4] = np.where(np.arange(4) < own[:, None], class_kind, -1)
    kinds[:, 4:] = np.where(np.arange(3) < strength[:, None], KINDS.index("promoter_strength"), -1)
    return kinds


def _summit_kinds(rule: Rule, elements: Elements, rng: np.random.Generator) -> np.ndarray:
    """Kinds of up to 4 sites a summit (-1 none).

    Activators carry sites of one class; silencers and insulated elements carry 1 or 2 sites of
    their own and fill up with sites of either activator class, so that all classes have equally
    many sites.
    """
    count, most = len(elements.summit), len(rule.sites_per_summit_shares)
    total = 1 + rng.choice(most, size=count, p=rule.sites_per_summit_shares)
    kind = elements.kind[elements.summit_element]
    element_class = rng.integers(0, 2, len(elements.kind))[elements.summit_element]
    activator = np.where(kind < 2, kind, element_class)
    kinds = np.repeat(activator[:, None], most, axis=1)
    special = np.where(kind == 2, KINDS.index("silencer"), KINDS.index("insulator"))
    own = np.where(kind < 2, 0, np.where(total > 2, 2, 1))
    kinds = np.where(np.arange(most) < own[:, None], special[:, None], kinds)
    return np.where(np.arange(most) < total[:, None], kinds, -1)


def _slots(rng: np.random.Generator, centre: np.ndarray, slots: int, sites: int) -> np.ndarray:
    """Starts of sites around each centre: slots of 16 bp, none used twice, jittered by 0-4 bp."""
    chosen = np.argsort(rng.random((len(centre), slots)), axis=1)[:, :sites]
    jitter = rng.integers(0, 5, (len(centre), sites))
    return centre[:, None] + (2 * chosen - slots) * (_SLOT_BP // 2) + jitter
