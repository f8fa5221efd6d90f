"""Genes for a trained model: from tables and a FASTA, or from a data set that was built.

Both ways end in the one record of data.records. The element rule is the model's own, and what it
leaves out is kept, with the reason.
"""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from epinformer_jax.data import elements, features, gene_examples, records, sequence, tables
from epinformer_jax.data.batches import Sequences
from epinformer_jax.data.elements import ElementRule
from epinformer_jax.data.features import FeatureSchema
from epinformer_jax.data.genome import Genome
from epinformer_jax.data.loader import GeneSet
from epinformer_jax.data.records import GeneExample, Manifest

_KNOWN_COLUMNS = {*tables.GENE_COLUMNS, *tables.OPTIONAL_GENE_SIGNALS, "gene_name"}


@dataclasses.dataclass(frozen=True)
class GeneInputs:
    """Genes with their elements and signals, on no model's scale yet.

    Attributes:
      examples: the records.
      link_signal_names, gene_signal_names: what the columns of their signals are.
      dropped: links left out: gene_id, chrom, start, end, reason.
      carried: the table's other columns, by gene_id.
    """

    examples: list[GeneExample]
    link_signal_names: tuple[str, ...]
    gene_signal_names: tuple[str, ...]
    dropped: pd.DataFrame
    carried: pd.DataFrame

    @property
    def splits(self) -> list[str]:
        """The split (chromosome) of each gene."""
        return [example.split for example in self.examples]


def from_tables(
    genes: str | os.PathLike | pd.DataFrame,
    links: str | os.PathLike | pd.DataFrame | None,
    genome: Genome,
    *,
    rule: ElementRule,
    promoter_bp: int = 2000,
    split_of: Mapping[str, str] | None = None,
) -> GeneInputs:
    """Reads genes.tsv and links.tsv (or takes their frames) and cuts the sequences out of a genome.

    `split_of` says as which chromosome a contig counts; its own name without that. Without `links`
    genes have no elements. Sequence past a contig's end is unknown.

    Raises:
      ValueError: a table is wrong, a contig is unknown, or a position lies beyond its contig's end;
        names file and line.
    """
    frame = genes if isinstance(genes, pd.DataFrame) else tables.read_genes(genes, labels=())
    if links is None:
        links = gene_examples.no_links()
    elif not isinstance(links, pd.DataFrame):
        links = tables.read_links(links, frame)
    gene_examples.check_on_genome(frame, genome, "tss")
    gene_examples.check_on_genome(links, genome, "start")
    kept, dropped = elements.select(links, rule)
    link_names, gene_names = gene_examples.link_signals(kept), gene_examples.gene_signals(frame)
    splits = [(split_of or {}).get(chrom, chrom) for chrom in frame["chrom"]]
    made = gene_examples.of_tables(
        frame.assign(split=splits),
        kept,
        genome,
        rule=rule,
        promoter_bp=promoter_bp,
        link_signal_names=link_names,
        gene_signal_names=gene_names,
    )
    carried = frame.set_index("gene_id")[[name for name in frame if name not in _KNOWN_COLUMNS]]
    columns = ["gene_id", "chrom", "start", "end", "reason"]
    return GeneInputs(list(made), link_names, gene_names, dropped[columns], carried)


def from_dataset(directory: str | os.PathLike, *, rule: ElementRule) -> GeneInputs:
    """Reads a genes data set that was built with the same element rule.

    Raises:
      ValueError: it holds windows, or was built with another rule.
    """
    manifest, examples = records.read_dataset(directory)
    return from_records(examples, manifest, rule=rule, where=str(directory))


def from_records(
    examples: list[GeneExample], manifest: Manifest, *, rule: ElementRule, where: str = "the data"
) -> GeneInputs:
    """Takes records as `read_dataset` returns them, all or some.

    Raises:
      ValueError: they are windows, there is none, or they were built with another rule.
    """
    if manifest.kind != "genes" or not examples:
        found = manifest.kind if examples else "no record"
        raise ValueError(f"{where} holds {found}, expected genes")
    built = ElementRule.from_dict(manifest.element_rule)
    if built != rule:
        raise ValueError(f"{where} was built with {built}, but the model needs {rule}")
    nothing = pd.DataFrame(columns=["gene_id", "chrom", "start", "end", "reason"])
    labels = np.stack([example.labels for example in examples])
    ids = pd.Index([example.gene_id for example in examples], name="gene_id")
    carried = pd.DataFrame(labels, index=ids, columns=list(manifest.label_names))
    return GeneInputs(
        examples, manifest.link_signal_names, manifest.gene_signal_names, nothing, carried
    )


def other_strand(genes: GeneInputs) -> GeneInputs:
    """The same genes with every sequence reverse-complemented; places and signals stay."""

    def turned(example: GeneExample) -> GeneExample:
        elements_codes = [sequence.reverse_complement(own) for own in element_codes(example)]
        return dataclasses.replace(
            example,
            promoter=sequence.reverse_complement(example.promoter),
            element_sequence=np.concatenate([np.empty(0, np.uint8), *elements_codes]),
        )

    return dataclasses.replace(genes, examples=[turned(example) for example in genes.examples])


def on_scale_of(inputs: GeneInputs, schema: FeatureSchema, max_elements: int) -> GeneSet:
    """The genes as a model takes them: features in its order and scale, its nearest elements.

    Labels are zeros.

    Raises:
      ValueError: a signal that the model needs is missing.
    """
    keep = max_elements if schema.use_elements else 0
    names = inputs.link_signal_names, inputs.gene_signal_names
    sequences, links, genes = [], [], []
    for example in inputs.examples:
        count = min(keep, len(example.element_length))
        sequences.append(Sequences([example.promoter, *element_codes(example)[:count]]))
        links.append(features.link_array(schema, example, *names)[: 1 + count])
        genes.append(features.gene_array(schema, example, inputs.gene_signal_names))
    labels = np.zeros(len(inputs.examples), np.float32)
    return GeneSet(inputs.examples, sequences, links, np.stack(genes), labels)


def element_codes(example: GeneExample) -> list[UInt8[np.ndarray, "_"]]:
    """The sequence of each element, cropped to the window."""
    return np.split(example.element_sequence, np.cumsum(example.element_length)[:-1])[
        : len(example.element_length)
    ]
