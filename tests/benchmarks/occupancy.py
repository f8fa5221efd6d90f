"""Genes with the elements of K562: counts, lengths, distances and sharing are real, bases are not.

Elements and TSSs come from the genome-wide tables, links from data_prep's published rule (1,000 <
|distance| <= 100,000, nearest 60). Where the tables are not at hand, a made-up genome of about the
same occupancy takes their place, and `Genes.source` says so. Bases are drawn from A, C, G, T; an
element has the same bases in every gene that it is linked to.
"""

import dataclasses
import pathlib

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int, UInt8

from data_prep import link_rules, pairs, power_law
from epinformer_jax.data import elements as elements_lib
from epinformer_jax.data import features as features_lib
from epinformer_jax.data.batches import Sequences
from epinformer_jax.data.loader import GeneSet
from epinformer_jax.data.records import GeneExample, Manifest
from epinformer_jax.data.tables import MRNA_FEATURES

WINDOW_BP = 2000
MILLION_READS = {"DNase_ENCFF257HEE": 100.0, "H3K27ac_ENCFF232RQF": 70.7}
SIGNALS = ("activity", "contact")
GENE_SIGNALS = (*MRNA_FEATURES, "promoter_activity")
GENE_COUNT, ELEMENT_COUNT = 18_377, 116_669  # of K562; what the made-up genome takes over
BLOCK_BP, BLOCKS = 200_000, 9_400


@dataclasses.dataclass(frozen=True)
class Genes:
    """Genes and the elements they share, as arrays; `element[first[g]:first[g + 1]]` are gene g's.

    `length` and `start` belong to distinct elements (cropped to the window), `element`,
    `distance_bp` and `signals` to links, the rest to genes.
    """

    source: str
    chrom: np.ndarray
    tss: Int[np.ndarray, "N"]
    first: Int[np.ndarray, "M"]
    element: Int[np.ndarray, "E"]
    distance_bp: Int[np.ndarray, "E"]
    signals: Float32[np.ndarray, "E P"]
    start: Int[np.ndarray, "D"]
    length: Int[np.ndarray, "D"]
    gene_signals: Float32[np.ndarray, "N G"]
    labels: Float32[np.ndarray, "N"]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.tss)

    @property
    def counts(self) -> Int[np.ndarray, "N"]:
        """Elements of each gene."""
        return np.diff(self.first)

    def save(self, path: pathlib.Path) -> None:
        """Writes all arrays, for `load`."""
        np.savez(path, **dataclasses.asdict(self))

    @classmethod
    def load(cls, path: pathlib.Path) -> "Genes":
        """Reads what `save` wrote."""
        with np.load(path) as arrays:
            values = {name: arrays[name] for name in arrays.files}
        return cls(**{**values, "source": str(values["source"]), "seed": int(values["seed"])})

    def subset(self, chosen: Int[np.ndarray, "K"]) -> "Genes":
        """Some genes, in that order, with the same elements and bases."""
        ranges = [np.arange(self.first[g], self.first[g + 1]) for g in chosen]
        links = np.concatenate([np.zeros(0, np.int64), *ranges])
        by_gene = {name: getattr(self, name)[chosen] for name in ("chrom", "tss", "labels")}
        return dataclasses.replace(
            self,
            **by_gene,
            gene_signals=self.gene_signals[chosen],
            first=np.concatenate([[0], np.cumsum(self.counts[chosen])]),
            element=self.element[links],
            distance_bp=self.distance_bp[links],
            signals=self.signals[links],
        )

    def describe(self) -> dict[str, float | str]:
        """The occupancy in numbers."""
        slots = 1 + self.counts
        bases = WINDOW_BP * len(self) + int(self.length[self.element].sum())
        rows, positions = slots.sum() / (61 * len(self)), bases / (61 * WINDOW_BP * len(self))
        used = np.unique(self.element)
        return {
            "source": self.source,
            "genes": len(self),
            "elements_per_gene_mean": float(self.counts.mean()),
            "elements_per_gene_median": float(np.median(self.counts)),
            "element_length_mean_bp": float(self.length[self.element].mean()),
            "rows_filled": float(rows),
            "positions_filled": float(positions),
            "distinct_elements": len(used),
            "reuse": float(len(self.element) / max(len(used), 1)),
            "bases_per_gene": bases / len(self),
        }


def k562(folder: pathlib.Path) -> Genes:
    """K562's genes from the genome-wide tables in `folder`, or made-up ones where it is not."""
    if not folder.is_dir():
        return _linked(
            *_made_up_tables(), f"made up: there is no {folder.name}/ with K562's tables"
        )
    elements = pd.read_csv(folder / "candidate_elements_counts.tsv.gz", sep="\t")
    genes = pd.read_csv(folder / "tss_window_counts.tsv.gz", sep="\t").set_index("gene_id")
    features = pd.read_csv(folder / "mrna_halflife_features.csv.gz").set_index("gene_id")
    answers = pd.read_csv(folder / "rna_labels_and_published_predictions.csv.gz")
    genes = genes.join(features[list(MRNA_FEATURES)], how="inner")
    genes["label"] = answers.set_index("gene_id")["rna_label_log10rpkm_zscore"]
    genes["tss"] = (genes["tss_window_start"] + genes["tss_window_end"]) // 2
    for table in (elements, genes):
        rpm = [table[name] / total for name, total in MILLION_READS.items()]
        table["activity"] = np.sqrt(rpm[0] * rpm[1])
    return _linked(elements, genes, "K562's elements and genes, bases drawn at random")


def codes_of(genes: Genes) -> tuple[list[UInt8[np.ndarray, "_"]], UInt8[np.ndarray, "N L"]]:
    """Bases of every distinct element, and of every promoter by its place among all genes.

    The same seed, chromosome and position give the same bases, in a subset too.
    """
    rng = np.random.default_rng(genes.seed)
    ends = np.cumsum(genes.length)
    every = _random_codes(rng, int(ends[-1]))
    elements = np.split(every, ends[:-1])
    promoters = np.stack(
        [
            _random_codes(np.random.default_rng([genes.seed, int(tss)]), WINDOW_BP)
            for tss in genes.tss
        ]
    )
    return elements, promoters


def schema() -> features_lib.FeatureSchema:
    """The scalar inputs of the published RNA model."""
    return features_lib.schema("published", "PE-Activity-HiC")


def manifest() -> Manifest:
    """What the records of these genes mean."""
    return Manifest(
        kind="genes",
        link_signal_names=SIGNALS,
        gene_signal_names=GENE_SIGNALS,
        label_names=("rna",),
        window_bp=WINDOW_BP,
        promoter_bp=WINDOW_BP,
    )


def examples(genes: Genes, elements: list[np.ndarray], promoters: np.ndarray) -> list[GeneExample]:
    """The genes as records, in their order, with the bases of `codes_of`."""
    made = []
    for g in range(len(genes)):
        links = slice(genes.first[g], genes.first[g + 1])
        own = genes.element[links]
        codes = [np.zeros(0, np.uint8), *(elements[e] for e in own)]
        made.append(
            GeneExample(
                gene_id=f"gene_{genes.chrom[g]}_{genes.tss[g]}_{g}",
                gene_name="",
                chrom=str(genes.chrom[g]),
                split=str(genes.chrom[g]),
                tss=int(genes.tss[g]),
                strand="+",
                promoter=promoters[g],
                element_start=genes.start[own],
                element_end=genes.start[own] + genes.length[own],
                element_length=genes.length[own].astype(np.int32),
                element_sequence=np.concatenate(codes),
                distance_bp=genes.distance_bp[links],
                link_signals=genes.signals[links],
                gene_signals=genes.gene_signals[g],
                labels=genes.labels[g : g + 1],
            )
        )
    return made


def gene_set(genes: Genes) -> GeneSet:
    """The genes as the loader hands them to training."""
    form, (elements, promoters) = schema(), codes_of(genes)
    records = examples(genes, elements, promoters)
    sequences = [
        Sequences([promoters[g], *(elements[e] for e in genes.element[first:last])])
        for g, (first, last) in enumerate(zip(genes.first[:-1], genes.first[1:], strict=True))
    ]
    return GeneSet(
        records,
        sequences,
        [features_lib.link_array(form, example, SIGNALS, GENE_SIGNALS) for example in records],
        np.stack([features_lib.gene_array(form, example, GENE_SIGNALS) for example in records]),
        genes.labels,
    )


def _random_codes(rng: np.random.Generator, count: int) -> UInt8[np.ndarray, "L"]:
    return np.uint8(1) << (np.frombuffer(rng.bytes(count), np.uint8) & np.uint8(3))


def _linked(elements: pd.DataFrame, genes: pd.DataFrame, source: str) -> Genes:
    """Links by the published rule; elements cropped to the window."""
    elements = elements.sort_values(["chrom", "start"], kind="stable").reset_index(drop=True)
    genes = genes.sort_values(["chrom", "tss"], kind="stable").reset_index(drop=True)
    rule = link_rules.LINK_RULES["published"]
    found = []
    for chrom, mine in genes.groupby("chrom", sort=False):
        nearby = elements[elements["chrom"] == chrom]
        joined = pairs.join_within(
            mine["tss"].to_numpy(),
            nearby["start"].to_numpy(),
            nearby["end"].to_numpy(),
            max_distance_bp=rule.max_distance_bp,
        )
        part = nearby.iloc[joined.element][["start", "end", "activity"]].reset_index(
            names="element"
        )
        part["gene_id"] = mine.index.to_numpy()[joined.gene]
        part["distance"] = (part["start"] + part["end"]) // 2 - mine["tss"].to_numpy()[joined.gene]
        found.append(part)
    links, _ = link_rules.select_links(pd.concat(found, ignore_index=True), rule)
    links = links.sort_values("gene_id", kind="stable")
    contact = power_law.OBSERVED.contact(links["distance"].to_numpy())
    counts = np.bincount(links["gene_id"], minlength=len(genes))
    cropped = [
        elements_lib.crop(start, end, WINDOW_BP)
        for start, end in zip(elements["start"], elements["end"], strict=True)
    ]
    start, end = np.array(cropped, np.int64).T
    columns = [*MRNA_FEATURES, "activity"]
    return Genes(
        source,
        genes["chrom"].to_numpy(str),
        genes["tss"].to_numpy(np.int64),
        np.concatenate([[0], np.cumsum(counts)]),
        links["element"].to_numpy(np.int64),
        links["distance"].to_numpy(np.int64),
        np.stack([links["activity"], contact], axis=1).astype(np.float32),
        start,
        end - start,
        genes[columns].to_numpy(np.float32),
        genes["label"].to_numpy(np.float32),
    )


def _made_up_tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Elements and genes that crowd in the same places, about as many a gene as K562 has."""
    rng = np.random.default_rng(0)
    crowding = rng.gamma(1.3, size=BLOCKS)

    def places(count: int, power: float) -> pd.DataFrame:
        share = crowding**power / (crowding**power).sum()
        block = rng.choice(BLOCKS, size=count, p=share)
        position = 10_000 + block * BLOCK_BP + rng.integers(BLOCK_BP, size=count)
        part = pd.DataFrame({"chrom": "chr1", "start": position})
        part["activity"] = rng.gamma(1.0, size=count)
        return part

    elements, genes = places(ELEMENT_COUNT, 1.0), places(GENE_COUNT, 0.6)
    length = np.clip(rng.lognormal(np.log(760), 0.5, ELEMENT_COUNT), 500, 4000).astype(int)
    elements["end"] = elements["start"] + np.where(rng.random(ELEMENT_COUNT) < 0.18, 500, length)
    genes = genes.rename(columns={"start": "tss"})
    genes[list(MRNA_FEATURES)] = rng.normal(size=(GENE_COUNT, len(MRNA_FEATURES)))
    genes["label"] = rng.normal(size=GENE_COUNT)
    return elements, genes
