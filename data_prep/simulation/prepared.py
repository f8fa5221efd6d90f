"""What the published preparation makes of the simulated files: the tables of one cell type.

RPM = 1e6 x overlapping reads / mapped reads, nothing filtered; activity = sqrt(DNase RPM x H3K27ac
RPM), over the element, over TSS +-500 for promoters, and over its own 256 bp for a window; label =
z(log10(RPKM + 0.1)).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float64

from data_prep.expression import Transform, fit_transform
from data_prep.simulation.layout import Layout
from data_prep.simulation.reads import Reads, activity
from data_prep.simulation.rule import pairs_within
from data_prep.simulation.sequence import unknown_intervals
from data_prep.simulation.settings import CELLS, CHROMOSOMES, Settings, stream

WINDOW_BP = 256
WINDOW_OFFSETS_BP = (-78, 0, 78)
PROMOTER_FLANK_BP = 500
_NEGATIVE_SHARE = 0.05
_NEGATIVE_CLEARANCE_BP = 1_000
_ACTIVITY_OFFSET = 0.1


class Signals(NamedTuple):
    """Counts, RPM and activity of some intervals."""

    dnase_count: np.ndarray
    h3k27ac_count: np.ndarray
    dnase: np.ndarray
    h3k27ac: np.ndarray
    activity: np.ndarray


def measure(
    reads: dict[str, Reads], chrom: np.ndarray, start: np.ndarray, end: np.ndarray
) -> Signals:
    """Counts both assays in intervals (chromosome index, 0-based half-open)."""
    counts = {assay: reads[assay].count(chrom, start, end) for assay in ("dnase", "h3k27ac")}
    rpm = {assay: reads[assay].rpm(count) for assay, count in counts.items()}
    return Signals(*counts.values(), *rpm.values(), activity(rpm["dnase"], rpm["h3k27ac"]))


WINDOW_LABELS = {"log2_activity": {"name": "log2", "offset": _ACTIVITY_OFFSET}}


def label_transform(rpkm: Float64[np.ndarray, " G"]) -> Transform:
    """The label's transform: z(log10(RPKM + 0.1)) over the given genes."""
    return fit_transform("z-log10", rpkm)


def gene_ids(layout: Layout) -> np.ndarray:
    """Identifiers in genome order."""
    return np.array([f"SIMG{number:011d}" for number in range(1, len(layout.genes.tss) + 1)])


def gene_names(layout: Layout) -> np.ndarray:
    """Symbols: the chromosome and the gene's number on it."""
    chrom = layout.genes.chrom
    first = np.searchsorted(chrom, chrom, "left")
    number = np.arange(len(chrom)) - first + 1
    return np.array(
        [
            f"{CHROMOSOMES[c][3:]}G{n:03d}"
            for c, n in zip(chrom.tolist(), number.tolist(), strict=True)
        ]
    )


def names(chrom: np.ndarray) -> np.ndarray:
    """Chromosome names of chromosome indices."""
    return np.array(CHROMOSOMES)[chrom]


def genes_table(
    layout: Layout, mrna: dict[str, np.ndarray], reads: dict[str, Reads], rpkm: np.ndarray
) -> pd.DataFrame:
    """genes.tsv: TSS, strand, mRNA features, promoter signals, RPKM's label `rna`."""
    genes = layout.genes
    start = np.maximum(0, genes.tss - PROMOTER_FLANK_BP)
    signals = measure(reads, genes.chrom, start, genes.tss + PROMOTER_FLANK_BP)
    columns = {
        "gene_id": gene_ids(layout),
        "gene_name": gene_names(layout),
        "chrom": names(genes.chrom),
        "tss": genes.tss,
        "strand": np.where(genes.minus, "-", "+"),
        **mrna,
        "promoter_activity": signals.activity,
        "promoter_dnase": signals.dnase,
        "promoter_h3k27ac": signals.h3k27ac,
        "rna": label_transform(rpkm).apply(rpkm),
    }
    return pd.DataFrame(columns)


def elements_table(layout: Layout, reads: dict[str, Reads], cell: str) -> pd.DataFrame:
    """elements.tsv: the cell type's elements with counts, RPM and activity, in genome order."""
    elements = layout.elements
    chosen = np.flatnonzero(elements.active[CELLS.index(cell)])
    chrom, start, end = elements.chrom[chosen], elements.start[chosen], elements.end[chosen]
    signals = measure(reads, chrom, start, end)
    columns = {
        "chrom": names(chrom),
        "start": start,
        "end": end,
        "dnase_count": signals.dnase_count,
        "h3k27ac_count": signals.h3k27ac_count,
        "dnase": signals.dnase,
        "h3k27ac": signals.h3k27ac,
        "activity": signals.activity,
    }
    return pd.DataFrame(columns, index=chosen)


def links_table(
    layout: Layout,
    settings: Settings,
    elements: pd.DataFrame,
    contact_of_pairs: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> pd.DataFrame:
    """links.tsv: every gene x element within the distance limit, sorted by position, then gene.

    `elements` is `elements_table`'s; `contact_of_pairs(chrom, position_a, position_b)` gives the
    contact column. abc_score = activity x contact / its sum over the gene's listed elements (0
    where the sum is 0).
    """
    gene, element = pairs_within(layout, elements.index.to_numpy(), settings.max_distance_bp)
    tss = layout.genes.tss[gene]
    linked = elements.loc[element].reset_index(drop=True)
    middle = (linked["start"] + linked["end"]).to_numpy() // 2
    links = pd.DataFrame({"gene_id": gene_ids(layout)[gene]})
    links[["chrom", "start", "end"]] = linked[["chrom", "start", "end"]]
    links["distance"] = middle - tss
    links[["activity", "dnase", "h3k27ac"]] = linked[["activity", "dnase", "h3k27ac"]]
    links.insert(6, "contact", contact_of_pairs(layout.genes.chrom[gene], middle, tss))
    product = (links["activity"] * links["contact"]).to_numpy()
    total = np.bincount(gene, weights=product, minlength=len(layout.genes.tss))[gene]
    links["abc_score"] = np.divide(product, total, out=np.zeros_like(product), where=total > 0)
    order = np.lexsort((gene, links["start"].to_numpy(), layout.genes.chrom[gene]))
    return links.iloc[order].reset_index(drop=True)


def windows_table(
    layout: Layout, settings: Settings, reads: dict[str, Reads], cell: str
) -> pd.DataFrame:
    """windows.tsv: 256 bp at three offsets around open summits and TSSs, and random negatives."""
    elements, genes = layout.elements, layout.genes
    active = elements.active[CELLS.index(cell)][elements.summit_element]
    summit_chrom = elements.chrom[elements.summit_element][active]
    summit = elements.summit[active]
    negative_chrom, negative = _negatives(
        layout, settings, cell, 3 * (len(summit) + len(genes.tss))
    )
    groups = (
        ("element", summit_chrom, summit, WINDOW_OFFSETS_BP),
        ("promoter", genes.chrom, genes.tss, WINDOW_OFFSETS_BP),
        ("negative", negative_chrom, negative, (0,)),
    )
    parts = []
    for label, chrom, centre, offsets in groups:
        for offset in offsets:
            start = centre + offset - WINDOW_BP // 2
            name = [f"{label}_{number}:{offset:+d}" for number in range(1, len(centre) + 1)]
            parts.append(
                pd.DataFrame(
                    {"index": chrom, "start": start, "end": start + WINDOW_BP, "name": name}
                )
            )
    windows = pd.concat(parts, ignore_index=True)
    windows = windows.sort_values(["index", "start", "name"], ignore_index=True)
    chrom = windows.pop("index").to_numpy()
    signals = measure(reads, chrom, windows["start"].to_numpy(), windows["end"].to_numpy())
    windows.insert(0, "chrom", names(chrom))
    windows["log2_activity"] = np.log2(_ACTIVITY_OFFSET + signals.activity)
    return windows


def _negatives(
    layout: Layout, settings: Settings, cell: str, windows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Random window centres away from summits, TSSs, blacklisted regions and unknown bases."""
    rng = stream(settings.seed, "negatives", cell)
    wanted = round(_NEGATIVE_SHARE * windows)
    share = layout.length / layout.length.sum()
    chrom = np.sort(rng.choice(len(share), size=3 * wanted, p=share))
    centre = np.floor(rng.random(3 * wanted) * layout.length[chrom]).astype(np.int64)
    keep = np.zeros(len(chrom), bool)
    for index in range(len(share)):
        here = chrom == index
        summits = layout.elements.summit[
            layout.elements.chrom[layout.elements.summit_element] == index
        ]
        points = np.concatenate([summits, layout.genes.tss[layout.genes.chrom == index]])
        spans = [(point, point + 1) for point in points.tolist()]
        spans += [(start, end) for c, start, end in layout.blacklist.tolist() if c == index]
        spans += unknown_intervals(layout, index) + [(-1, 0)]
        start, end = np.array(spans).T
        position = centre[here, None]
        margin = _NEGATIVE_CLEARANCE_BP
        near = (position >= start - margin) & (position < end + margin)
        keep[here] = ~near.any(axis=1)
    chosen = np.flatnonzero(keep)
    chosen = np.sort(rng.permutation(chosen)[:wanted])
    order = np.lexsort((centre[chosen], chrom[chosen]))
    return chrom[chosen][order], centre[chosen][order]
