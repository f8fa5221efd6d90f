"""From checked tables to examples: which genes, elements and windows there are, split by split.

A plan is made once from whole tables. Its `examples(split, genome)` is a generator that needs
nothing else, so that memory stays flat and another runner can make the splits in parallel: plans
and genomes are picklable.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from epinformer_jax.data import chromosomes, elements, gene_examples, sequence, tables
from epinformer_jax.data.elements import ElementRule
from epinformer_jax.data.genome import Genome
from epinformer_jax.data.records import GeneExample, Manifest, WindowExample

DROPPED_COLUMNS = ("table", "key", "reason")


@dataclasses.dataclass(frozen=True)
class GenePlan:
    """Checked genes and the links they keep, ready to become examples; picklable.

    `genes` has a column `split` and is sorted; `links` are those kept, of each gene nearest first.
    """

    genes: pd.DataFrame
    links: pd.DataFrame
    rule: ElementRule
    promoter_bp: int
    link_signal_names: tuple[str, ...]
    gene_signal_names: tuple[str, ...]
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.genes)

    @property
    def splits(self) -> list[str]:
        """Splits with genes, in natural order."""
        return chromosomes.natural_order(self.genes["split"])

    def manifest(
        self, genome: Genome, counts: dict, inputs: dict, transforms: dict | None = None
    ) -> Manifest:
        """What the dataset will say about itself, before its shards are known; `transforms`: how
        labels were made (`expression.label_transforms`).
        """
        return Manifest(
            kind="genes",
            link_signal_names=self.link_signal_names,
            gene_signal_names=self.gene_signal_names,
            label_names=self.label_names,
            label_transforms=transforms or {},
            window_bp=self.rule.window_bp,
            promoter_bp=self.promoter_bp,
            element_rule=self.rule.to_dict(),
            genome=genome.describe(),
            inputs=inputs,
            counts=counts,
        )

    def examples(self, split: str, genome: Genome) -> Iterator[GeneExample]:
        """Yields the genes of one split by contig, TSS and identifier."""
        genes = self.genes[self.genes["split"] == split]
        links = self.links[self.links["gene_id"].isin(genes["gene_id"])]
        return gene_examples.of_tables(
            genes,
            links,
            genome,
            rule=self.rule,
            promoter_bp=self.promoter_bp,
            link_signal_names=self.link_signal_names,
            gene_signal_names=self.gene_signal_names,
            label_names=self.label_names,
        )


@dataclasses.dataclass(frozen=True)
class WindowPlan:
    """Checked windows, ready to become examples; picklable.

    `windows` has a column `split` and is sorted.
    """

    windows: pd.DataFrame
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def splits(self) -> list[str]:
        """Splits with windows, in natural order."""
        return chromosomes.natural_order(self.windows["split"])

    @property
    def has_text(self) -> bool:
        """True when the table holds the sequences itself."""
        return "sequence" in self.windows

    @property
    def lengths(self) -> pd.Series:
        """Bases of each window."""
        if self.has_text:
            return self.windows["sequence"].str.len()
        return self.windows["end"] - self.windows["start"]

    def manifest(
        self, genome: Genome | None, counts: dict, inputs: dict, transforms: dict | None = None
    ) -> Manifest:
        """What the dataset will say about itself, before its shards are known; `transforms`: how
        labels were made (`expression.label_transforms`).
        """
        return Manifest(
            kind="windows",
            label_names=self.label_names,
            label_transforms=transforms or {},
            window_bp=int(self.lengths.max()),
            promoter_bp=0,
            genome={} if self.has_text else genome.describe(),
            inputs=inputs,
            counts=counts,
        )

    def examples(self, split: str, genome: Genome | None) -> Iterator[WindowExample]:
        """Yields the windows of one split; `genome` may be None when the table holds sequences."""
        windows = self.windows[self.windows["split"] == split]
        labels = windows[list(self.label_names)].to_numpy(np.float32)
        for number, window in enumerate(windows.itertuples(index=False)):
            if self.has_text:
                codes = sequence.encode(window.sequence)
            else:
                codes = genome.fetch(window.chrom, int(window.start), int(window.end))
            yield WindowExample(
                name=window.name,
                chrom=window.chrom,
                split=split,
                start=int(window.start),
                end=int(window.end),
                sequence=codes,
                labels=labels[number],
            )


def plan_genes(
    genes: pd.DataFrame,
    links: pd.DataFrame,
    genome: Genome,
    split_of: dict[str, str],
    rule: ElementRule,
    promoter_bp: int,
) -> tuple[GenePlan, dict[str, int], pd.DataFrame]:
    """Places genes and links on the genome, applies the rule: plan, counts, dropped links.

    Raises:
      ValueError: a contig is unknown, or a TSS or element lies beyond its contig's end; names file
        and line.
    """
    gene_examples.check_on_genome(genes, genome, "tss")
    gene_examples.check_on_genome(links, genome, "start")
    kept, left_out = elements.select(links, rule)
    half = promoter_bp // 2
    plan = GenePlan(
        genes=_sorted(_with_split(genes, split_of), ["tss", "gene_id"]),
        links=kept,
        rule=rule,
        promoter_bp=promoter_bp,
        link_signal_names=gene_examples.link_signals(links),
        gene_signal_names=gene_examples.gene_signals(genes),
        label_names=genes.attrs["labels"],
    )
    counts = {
        "genes_without_elements": int((~genes["gene_id"].isin(kept["gene_id"])).sum()),
        "promoters_past_contig_end": _past_end(
            genes["chrom"], genes["tss"] - half, genes["tss"] + half, genome
        ),
        "elements_past_contig_end": _past_end(kept["chrom"], kept["start"], kept["end"], genome),
        "missing_labels": int(genes[list(plan.label_names)].isna().to_numpy().sum()),
        "missing_contact_set_to_0": links.attrs.get("missing_contact", 0),
        "links": len(links),
        "links_kept": len(kept),
    }
    for reason in elements.REASONS:
        counts[f"links_{reason.replace(' ', '_')}"] = int((left_out["reason"] == reason).sum())
    return plan, counts, _dropped_links(left_out)


def plan_windows(
    windows: pd.DataFrame, genome: Genome | None, split_of: dict[str, str]
) -> tuple[WindowPlan, dict[str, int]]:
    """Places windows on the genome (or takes their sequences as they are): the plan and counts.

    Raises:
      ValueError: no FASTA for coordinates, an unknown contig, a window that begins beyond its
        contig's end, or a character in a sequence that is not a letter; names file and line.
    """
    past_end = 0
    if "sequence" in windows:
        for row, text in enumerate(windows["sequence"]):
            try:
                sequence.encode(text)
            except ValueError as error:
                raise ValueError(f"{tables.where(windows, row)}: sequence: {error}") from None
    else:
        if genome is None:
            raise ValueError(f"{windows.attrs['path']}: windows given by coordinates need --fasta")
        gene_examples.check_on_genome(windows, genome, "start")
        past_end = _past_end(windows["chrom"], windows["start"], windows["end"], genome)
    placed = _with_split(windows, split_of, has_own_split="split" in windows)
    plan = WindowPlan(_sorted(placed, ["start"]), windows.attrs["labels"])
    counts = {
        "shortest_bp": int(plan.lengths.min()),
        "windows_past_contig_end": past_end,
        "missing_labels": int(windows[list(plan.label_names)].isna().to_numpy().sum()),
    }
    return plan, counts


def _past_end(chroms: pd.Series, starts: pd.Series, ends: pd.Series, genome: Genome) -> int:
    lengths = chroms.map(genome.contigs).astype(np.float64)
    return int(((starts < 0) | (ends > lengths)).sum())


def _with_split(
    frame: pd.DataFrame, split_of: Mapping[str, str], *, has_own_split: bool = False
) -> pd.DataFrame:
    if has_own_split:
        splits = frame["split"]
    else:
        splits = frame["chrom"].map(lambda chrom: split_of.get(chrom, chrom))
    for split in dict.fromkeys(splits):
        try:
            chromosomes.check_split_name(split)
        except ValueError as error:
            row = int(np.argmax(splits == split))
            raise ValueError(
                f"{tables.where(frame, row)}: {error} (--contigs; genome.splits of `run`)"
            ) from None
    return frame.assign(split=splits)


def _sorted(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    ranks = {name: rank for rank, name in enumerate(chromosomes.natural_order(frame["chrom"]))}
    keys = frame[list(columns)].assign(chrom=frame["chrom"].map(ranks))
    order = keys.reset_index(drop=True).sort_values(["chrom", *columns], kind="stable").index
    return frame.iloc[order].reset_index(drop=True)


def _dropped_links(links: pd.DataFrame) -> pd.DataFrame:
    shown = zip(links["gene_id"], links["chrom"], links["start"] + 1, links["end"], strict=True)
    keys = [f"{gene} {chrom}:{first}-{last}" for gene, chrom, first, last in shown]
    values = {"table": "links", "key": keys, "reason": links["reason"].to_numpy()}
    return pd.DataFrame(values, columns=list(DROPPED_COLUMNS))
