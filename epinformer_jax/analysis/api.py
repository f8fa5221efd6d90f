"""What `epinformer_jax.load_model` returns: predictions from Python, NumPy and pandas out."""

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float

from epinformer_jax.analysis import (
    activity,
    attribution,
    element_table,
    ensembles,
    inputs,
    mutagenesis,
    perturb,
    predict,
    variants,
    vcf,
)
from epinformer_jax.analysis import links as scored_links
from epinformer_jax.analysis.activity import Codes
from epinformer_jax.analysis.api_inputs import (
    PathLike,
    Sequences,
    Table,
    named_codes,
    read_table,
)
from epinformer_jax.analysis.attribution_file import Attributions
from epinformer_jax.analysis.ensembles import Ensemble
from epinformer_jax.analysis.inputs import GeneInputs
from epinformer_jax.analysis.kmer_tables import KmerTable
from epinformer_jax.analysis.predict import Expression
from epinformer_jax.analysis.variants import Scores
from epinformer_jax.data import batches, sequence, tables
from epinformer_jax.data.genome import Genome
from epinformer_jax.data.records import GeneExample, Manifest
from epinformer_jax.model import functional, packing
from epinformer_jax.model.architecture import ModelConfig
from epinformer_jax.model.functional import Variables
from epinformer_jax.train import checkpoint
from epinformer_jax.train.checkpoint import ModelInfo

Genes = Table | GeneInputs | list[GeneExample]
# Named here: inside the class `predict` and `activity` are methods.
GENES_AT_ONCE, SEQUENCES_AT_ONCE = predict.BATCH_SIZE, activity.BATCH_SIZE
EMBEDDED_AT_ONCE = 64


def load_model(directory: PathLike, kind: ensembles.Kind | None = None) -> "Model":
    """Loads one model, or all folds of a run directory (each gene is then predicted by the fold
    that tests it).

    With `kind` "activity" a run of expression models gives the encoders that it has pre-trained.

    Raises:
      ValueError: the directory holds no model, or models that do not belong together.
    """
    directory = Path(directory)
    if kind is None:
        folders = ensembles.model_folders(directory, "expression")
        kind = checkpoint.load_model(folders[0])[1].model.kind
    return Model(ensembles.load_models([directory], kind=kind))


class Model:
    """One or several models of the same kind that speak together (`members`).

    Sequences are text or the codes of data.sequence, no longer than the model's window (they are
    centred in it). Where several models are loaded, the fold that tests a chromosome predicts it,
    and the mean of all where none does; `ensemble` says otherwise (analysis.ensembles).
    """

    def __init__(self, members: Sequence[ensembles.Model]):
        self.members = tuple(members)

    def __repr__(self) -> str:
        info = self.members[0].info
        who = ", ".join(member.name for member in self.members)
        return f"<{info.model.kind} model of {info.label}: {who}>"

    @property
    def info(self) -> ModelInfo:
        """What the one model is; refuses where several are loaded: see `members`."""
        return self._only().info

    @property
    def variables(self) -> Variables:
        """The one model's weights, for model.functional; likewise."""
        return self._only().variables

    @property
    def config(self) -> ModelConfig:
        """The one model's network, for model.functional; likewise."""
        return self._only().info.model

    def predict(self, genes: Genes, links: Table | None = None, **options) -> pd.DataFrame:
        """Predicted expression, a row a gene; arguments are those of `express`."""
        return self.express(genes, links, **options).predictions

    def attention(self, genes: Genes, links: Table | None = None, **options) -> pd.DataFrame:
        """The promoter's attention, a row a gene and element; arguments are those of `express`."""
        return self.express(genes, links, **options).attention

    def express(
        self,
        genes: Genes,
        links: Table | None = None,
        *,
        fasta: PathLike | Genome | None = None,
        split_of: Mapping[str, str] | None = None,
        manifest: Manifest | None = None,
        average_strands: bool = False,
        ensemble: Ensemble = "auto",
        force: bool = False,
        batch_size: int = GENES_AT_ONCE,
        kmer_table: KmerTable = "auto",
        show_progress: bool = False,
    ) -> Expression:
        """Predicted expression and attention of genes; see `analysis.predict.Expression`.

        Args:
          genes: genes.tsv or its frame, with `links` and `fasta`; a directory with a genes data
            set; records with the `manifest` of their data set; or `analysis.inputs.GeneInputs`.
          links: links.tsv or its frame; without it genes have no elements.
          fasta: the genome that tables speak of.
          split_of: chromosome that each contig counts as; its own name without that.
          manifest: of the data set that records come from (`data.records.read_dataset`).
          average_strands: mean of all sequences as they are and all reverse-complemented.
          ensemble: who predicts a gene where several models are loaded.
          force: predict although signals are on another scale than in training.
          kmer_table: auto, on, small or off; see `analysis.predict.predict_expression`.

        Raises:
          ValueError: this is an activity model, a table is wrong (named with its line), or a signal
            is missing or on another scale.
        """
        self._require("expression", "activity and embed")
        if not isinstance(genes, GeneInputs):
            genes = self._gene_inputs(genes, links, fasta, split_of, manifest)
        return predict.predict_expression(
            self.members,
            genes,
            ensemble=ensemble,
            force=force,
            average_strands=average_strands,
            batch_size=batch_size,
            kmer_table=kmer_table,
            show_progress=show_progress,
        )

    def perturb(
        self,
        genes: Genes,
        links: Table | None = None,
        *,
        gene_ids: Sequence[str] = (),
        fasta: PathLike | Genome | None = None,
        split_of: Mapping[str, str] | None = None,
        manifest: Manifest | None = None,
        **options,
    ) -> pd.DataFrame:
        """What changing one element at a time does to its gene, a row a gene, element and change.

        Genes are given as in `express`; `gene_ids` (or names) chooses some. Every element is
        removed in turn; the options of `analysis.perturb.perturb_elements` ask for more:
        activity_doses, contact_doses, swaps, swap_elements.
        """
        self._require("expression", "activity and embed")
        chosen = self._chosen(gene_ids, genes, links, fasta, split_of, manifest)
        return perturb.perturb_elements(self.members, **chosen, **options)

    def links(
        self,
        genes: Genes,
        links: Table | None = None,
        *,
        gene_ids: Sequence[str] = (),
        fasta: PathLike | Genome | None = None,
        split_of: Mapping[str, str] | None = None,
        manifest: Manifest | None = None,
        **options,
    ) -> pd.DataFrame:
        """Scores of every gene and element: attention, ABC, gradient and removal.

        Genes are given as in `perturb`; columns and options are those of
        `analysis.links.score_links`.
        """
        self._require("expression", "activity and embed")
        chosen = self._chosen(gene_ids, genes, links, fasta, split_of, manifest)
        return scored_links.score_links(self.members, **chosen, **options)

    def attribution(
        self,
        given: Genes | Sequences,
        links: Table | None = None,
        *,
        gene_ids: Sequence[str] = (),
        roles: Sequence[str] = attribution.ROLES,
        fasta: PathLike | Genome | None = None,
        split_of: Mapping[str, str] | None = None,
        manifest: Manifest | None = None,
        **options,
    ) -> Attributions:
        """What each base contributes: of sequences given as in `activity` (an activity model), or
        of the promoters and elements of genes given as in `perturb` (`roles` chooses).

        Options are those of `analysis.attribution.attribute`: method, reference, steps and more.
        """
        if self.members[0].info.model.kind == "activity":
            names, codes, splits = named_codes(given, fasta, split_of)
            regions = [
                attribution.Region(name, own, split=split)
                for name, own, split in zip(names, codes, splits or [""] * len(codes), strict=True)
            ]
            return attribution.attribute(self.members, regions, **options)
        genes = self._chosen(gene_ids, given, links, fasta, split_of, manifest)["genes"]
        regions = attribution.gene_regions(genes, self.members[0], roles)
        return attribution.attribute(self.members, regions, genes=genes, **options)

    def variants(
        self,
        path: PathLike,
        genes: Table | GeneInputs,
        links: Table | None = None,
        *,
        fasta: PathLike,
        activity_model: "Model | None" = None,
        split_of: Mapping[str, str] | None = None,
        max_allele_bp: int = vcf.MAX_ALLELE_BP,
        **options,
    ) -> Scores:
        """What the variants of a VCF do to elements and genes: `.table`, and `.dropped` with the
        variants left out and why. Options are those of `analysis.variants.score_variants`.
        """
        self._require("expression", "activity and embed")
        if not isinstance(genes, GeneInputs):
            genes = self._gene_inputs(genes, links, fasta, split_of, None)
        encoders = () if activity_model is None else activity_model.members
        with Genome(fasta) as genome:
            found, refused = vcf.read(path, genome, max_allele_bp=max_allele_bp)
            scores = variants.score_variants(
                self.members, genes, found, genome, activity_models=encoders, **options
            )
        dropped = pd.concat([refused, scores.dropped], ignore_index=True)
        return scores._replace(dropped=dropped)

    def mutagenesis(
        self,
        what: Genes | Sequences | None = None,
        links: Table | None = None,
        *,
        gene_ids: Sequence[str] = (),
        fasta: PathLike | Genome | None = None,
        split_of: Mapping[str, str] | None = None,
        manifest: Manifest | None = None,
        **options,
    ) -> list:
        """Effects of every substitution: a list of `analysis.mutagenesis.Scan`.

        Of an activity model: of sequences, given as in `activity`, or of `regions` of the genome
        `fasta` (`analysis.mutagenesis.of_regions`). Of an expression model: of genes, given as in
        `perturb` (`analysis.mutagenesis.of_genes`).

        Args:
          options: by name, of both: deletions (lengths), insertions (sequences), ensemble,
            average_strands, kmer_table, show_progress; of sequences and regions: step_bp; of genes:
            promoter, element, all_elements, activity_models, force. They are explained in
            `analysis.mutagenesis_activity.mutate_stretches`, `analysis.mutagenesis.of_genes` and
            `analysis.mutagenesis_genes.mutate_genes`.
        """
        if self.members[0].info.model.kind == "expression":
            genes = self._chosen(gene_ids, what, links, fasta, split_of, manifest)["genes"]
            return mutagenesis.of_genes(self.members, genes, **options)
        if "regions" in options:
            return mutagenesis.of_regions(self.members, fasta, split_of=split_of, **options)
        named = named_codes(what, fasta, split_of)
        return mutagenesis.of_sequences(self.members, *named, **options)

    def activity(
        self,
        sequences: Sequences | None = None,
        *,
        fasta: PathLike | None = None,
        split_of: Mapping[str, str] | None = None,
        average_strands: bool = False,
        ensemble: Ensemble = "auto",
        batch_size: int = SEQUENCES_AT_ONCE,
        show_progress: bool = False,
    ) -> pd.DataFrame:
        """Predicted activity, a row a sequence: name, the label (log2 of activity in published
        models; effects and contributions are differences of it), activity, fold and in_training.

        Args:
          sequences: one sequence, several, {name: sequence}, window records, or a table of windows
            (a frame with the columns sequence and split, or with chrom, start, end and `fasta`).
          fasta: sequences, one a record; with a table of windows (a path or frame): the genome.
          split_of: chromosome that each contig counts as.
          average_strands: mean of a sequence and its reverse complement.

        Raises:
          ValueError: this is an expression model, or a sequence is longer than the window.
        """
        self._require("activity", "predict, attention and embed")
        names, codes, splits = named_codes(sequences, fasta, split_of)
        return activity.predict_activity(
            self.members,
            names,
            codes,
            splits=splits,
            ensemble=ensemble,
            average_strands=average_strands,
            batch_size=batch_size,
            show_progress=show_progress,
        )

    def embed(
        self,
        sequences: Sequences | None = None,
        *,
        fasta: PathLike | None = None,
        average_strands: bool = False,
        batch_size: int = EMBEDDED_AT_ONCE,
    ) -> Float[np.ndarray, "N D"]:
        """One vector a sequence, in the order given; sequences are given as in `activity`.

        Of an expression model: what its attention sees of a slot, before link features. Of an
        activity model: the mean over positions of what leaves the encoder.

        Raises:
          ValueError: several models are loaded (their embeddings have nothing in common), or a
            sequence is longer than the window.
        """
        only = self._only()
        names, codes, _ = named_codes(sequences, fasta, None)
        window_bp = only.info.model.window_bp
        for name, own in zip(names, codes, strict=True):
            if not 0 < len(own) <= window_bp:
                raise ValueError(
                    f"sequence {name} has {len(own)} bases, expected 1 to {window_bp}; cut it first"
                )
        strands = [codes, [sequence.reverse_complement(own) for own in codes]]
        parts = [_embed(only, own, batch_size) for own in strands[: 1 + average_strands]]
        return np.mean(parts, axis=0)

    def _gene_inputs(self, genes, links, fasta, split_of, manifest) -> GeneInputs:
        rule = predict.rule_of(self.members[0])
        is_path = isinstance(genes, str | os.PathLike)
        if is_path and Path(genes).is_dir():
            return inputs.from_dataset(genes, rule=rule)
        if not is_path and not isinstance(genes, pd.DataFrame):
            if manifest is None:
                raise ValueError(
                    "records were given without the manifest of their data set, which names their "
                    "signals; pass manifest="
                )
            return inputs.from_records(list(genes), manifest, rule=rule)
        if fasta is None:
            raise ValueError("a table of genes was given without a genome; pass fasta=")
        frame = read_table(genes, "genes", functools.partial(tables.read_genes, labels=()))
        if links is not None:
            links = read_table(links, "links", functools.partial(tables.read_links, genes=frame))
        promoter_bp = self.members[0].info.promoter_bp
        given = {"rule": rule, "promoter_bp": promoter_bp, "split_of": split_of}
        if isinstance(fasta, Genome):
            return inputs.from_tables(frame, links, fasta, **given)
        with Genome(fasta) as genome:
            return inputs.from_tables(frame, links, genome, **given)

    def _chosen(self, gene_ids, genes, *given) -> dict[str, GeneInputs | pd.DataFrame]:
        """Genes with these ids or names, and the promoters of all."""
        if not isinstance(genes, GeneInputs):
            genes = self._gene_inputs(genes, *given)
        promoters = element_table.promoters_of(genes)
        return {"genes": element_table.select(genes, gene_ids), "promoters": promoters}

    def _only(self) -> ensembles.Model:
        if len(self.members) > 1:
            raise ValueError(
                f"{len(self.members)} models are loaded; take one of .members, or load its folder"
            )
        return self.members[0]

    def _require(self, kind: str, instead: str) -> None:
        found = self.members[0].info.model.kind
        if found != kind:
            encoders = ' (of a run: load_model(RUN, kind="activity"))' if kind == "activity" else ""
            raise ValueError(
                f"this is an {found} model, whose methods are {instead}; load an {kind} "
                f"model{encoders}"
            )


def _embed(model: ensembles.Model, codes: list[Codes], batch_size: int) -> np.ndarray:
    config = model.info.model
    step = _embed_step(config, model.info.unknown_base)
    variables = model.variables
    size = min(batch_size, max(len(codes), 1))
    width = config.embedding if config.kind == "expression" else config.encoder.channels[-1]
    parts = [np.empty((0, width), np.float32)]
    for first in range(0, len(codes), size):
        chosen = codes[first : first + size]
        labels = np.zeros(len(chosen), np.float32)
        batch = batches.pack_windows(chosen, labels, window_bp=config.window_bp, batch_size=size)
        rows = packing.PackedRows(**batch["rows"])
        parts.append(jax.device_get(step(variables, rows))[: len(chosen)])
    return np.concatenate(parts)


@functools.lru_cache(maxsize=8)
def _embed_step(config: ModelConfig, unknown: float):
    """The jitted embedding (variables, rows) -> [N, D]."""

    def step(variables: Variables, rows: packing.PackedRows):
        module = functional.bind(config, variables)
        dtype = module.head.output.kernel.dtype
        own = packing.expand(rows, unknown=unknown, dtype=dtype)
        if config.kind == "expression":
            return module.embed(own)
        own, _ = module.encoder(own, None, train=False, dtype=config.compute_dtype)
        return own.x.mean(axis=1)

    return jax.jit(step)
