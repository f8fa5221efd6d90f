"""The `build` command: tables and a FASTA become TFDS directories of genes and of windows."""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from data_prep import expression, plans
from data_prep.contig_names import NoCommonContig, rename_contigs
from data_prep.split_writers import Storage, Writer, processes, write_here
from epinformer_jax.data import atomic, elements, gene_examples, records, tables
from epinformer_jax.data.elements import ElementRule
from epinformer_jax.data.genome import Genome
from epinformer_jax.data.records import Manifest
from epinformer_jax.data.records_manifest import manifest_sha256

DESCRIPTION = """\
Write genes and/or windows as TFDS directories.

  OUT/genes, OUT/windows  TFRECORD shards (one split per chromosome), TFDS metadata, manifest.json
  OUT/dropped.tsv         what was left out of the tables, and why
  OUT/manifest.json       what was built

Tables are tab-separated, 0-based half-open. The output appears whole or not at all; the same input
gives the same bytes. Without --links genes are built with their promoters alone."""

_RULE = ElementRule()
_MEGABYTE = 1_000_000
_PROMOTER_BP = 2000


@dataclasses.dataclass(frozen=True)
class BuildResult:
    """What `build` made: the directory, the manifests of its datasets, and what was left out."""

    directory: Path
    genes: Manifest | None
    windows: Manifest | None
    dropped: pd.DataFrame


def build(
    out: str | os.PathLike,
    *,
    genes: str | os.PathLike | None = None,
    links: str | os.PathLike | None = None,
    fasta: str | os.PathLike | None = None,
    windows: str | os.PathLike | None = None,
    contigs: str | os.PathLike | None = None,
    rule: ElementRule = _RULE,
    promoter_bp: int = _PROMOTER_BP,
    labels: Sequence[str] | None = None,
    window_labels: Sequence[str] | None = None,
    allow_missing_labels: bool = False,
    compression: str | None = None,
    shard_bytes: int = records.DEFAULT_SHARD_BYTES,
    overwrite: bool = False,
    cache_dir: str | os.PathLike | None = None,
    show_progress: bool = False,
    writer: Writer = write_here,
) -> BuildResult:
    """Builds `out`/genes from genes and links, and `out`/windows from windows, as the command does.

    `labels` and `window_labels` name label columns; None takes every numeric column that is not
    otherwise known. A promoter is [tss - promoter_bp/2, tss + promoter_bp/2) on the plus strand.
    Contigs get the names that the FASTA has for them (chr1 or 1), which is said. `writer` writes
    the splits of a plan: here, in several processes, or by Apache Beam; the bytes are the same.

    Raises:
      ValueError: a table, the FASTA or an option is wrong, or `out` exists (without `overwrite`).
      OSError: a file cannot be read or written.
    """
    _check_request(genes, links, fasta, windows)
    elements.check_window_bp(promoter_bp, "promoter_bp")
    storage = Storage(compression, shard_bytes)
    made: dict[str, Manifest] = {}
    dropped = pd.DataFrame(columns=list(plans.DROPPED_COLUMNS), dtype=str)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(atomic.atomic_directory(out, overwrite=overwrite))
        genome = None if fasta is None else stack.enter_context(Genome(fasta, cache_dir))
        split_of = {} if contigs is None else _split_of_contig(contigs, genome)

        def write(plan: plans.GenePlan | plans.WindowPlan, manifest: Manifest) -> None:
            with tqdm(
                total=len(plan), unit=manifest.kind, disable=None if show_progress else True
            ) as bar:
                made[manifest.kind] = writer(
                    folder / manifest.kind, plan, manifest, genome, storage, bar.update
                )

        if genes is not None:
            frame = tables.read_genes(
                genes, labels=labels, allow_missing_labels=allow_missing_labels
            )
            pairs = gene_examples.no_links() if links is None else tables.read_links(links, frame)
            frame, pairs = _as_in_fasta(frame, genome), _as_in_fasta(pairs, genome)
            plan, counts, dropped = plans.plan_genes(
                frame, pairs, genome, split_of, rule, promoter_bp
            )
            inputs = _inputs(genes=genes, links=links, contigs=contigs)
            transforms = expression.label_transforms(genes, plan.label_names)
            write(plan, plan.manifest(genome, counts, inputs, transforms))
        if windows is not None:
            frame = tables.read_windows(
                windows, labels=window_labels, allow_missing_labels=allow_missing_labels
            )
            frame = frame if "sequence" in frame else _as_in_fasta(frame, genome)
            plan, counts = plans.plan_windows(frame, genome, split_of)
            inputs = _inputs(windows=windows, contigs=contigs)
            transforms = expression.label_transforms(windows, plan.label_names)
            write(plan, plan.manifest(genome, counts, inputs, transforms))
        tables.write_table(dropped, folder / "dropped.tsv")
        _write_summary(folder, made, len(dropped))
    return BuildResult(Path(out), made.get("genes"), made.get("windows"), dropped)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the command."""
    files = parser.add_argument_group("files")
    files.add_argument("--genes", metavar="TSV", help="genes: gene_id, chrom, tss, strand, ...")
    files.add_argument(
        "--links", metavar="TSV", help="links: gene_id, chrom, start, end, activity, contact"
    )
    files.add_argument(
        "--windows", metavar="TSV", help="windows: chrom, start, end (or sequence, split)"
    )
    files.add_argument(
        "--fasta", metavar="FA", help="genome, plain or gzip; not needed for windows given as text"
    )
    files.add_argument(
        "--contigs", metavar="TSV", help="chrom, split: which chromosome a contig counts as"
    )
    files.add_argument("--out", metavar="DIR", required=True, help="output directory")
    files.add_argument("--overwrite", action="store_true", help="replace an earlier output")
    files.add_argument(
        "--cache-dir", metavar="DIR", help="where gzip FASTA are unpacked (default: user cache)"
    )
    _add_rule_arguments(parser.add_argument_group("elements of a gene"))
    values = parser.add_argument_group("labels")
    values.add_argument(
        "--labels", metavar="A,B", help="label columns of genes (default: all numeric ones)"
    )
    values.add_argument(
        "--window-labels", metavar="A,B", help="label columns of windows (default: the same)"
    )
    values.add_argument(
        "--allow-missing-labels", action="store_true", help="store missing labels as NaN"
    )
    storage = parser.add_argument_group("storage")
    storage.add_argument(
        "--compression",
        choices=("none", "zlib"),
        default="none",
        help="of sequences, packed two bases a byte either way (default: none)",
    )
    storage.add_argument(
        "--shard-size",
        type=float,
        metavar="MB",
        default=records.DEFAULT_SHARD_BYTES / _MEGABYTE,
        help="megabytes at which a split goes on in a new file (default: %(default)g)",
    )
    add_writing_arguments(storage)


def add_writing_arguments(group) -> None:
    """Adds the options that say who writes; the bytes are the same."""
    group.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes, each writing one chromosome at a time (default: %(default)s)",
    )
    group.add_argument(
        "--beam",
        metavar="OPTIONS",
        help="write by Apache Beam with these pipeline options, as in "
        "--beam='--runner=FlinkRunner ...'; --beam= for none; see docs/beam.md",
    )


def run(args: argparse.Namespace) -> int:
    """Builds and prints what was made; returns the exit code."""
    rule = ElementRule(
        min_distance_bp=args.min_distance_bp,
        max_distance_bp=args.max_distance_bp,
        max_elements=args.max_elements,
        window_bp=args.window_bp,
        self_promoter=args.self_promoter,
    )
    result = build(
        args.out,
        genes=args.genes,
        links=args.links,
        fasta=args.fasta,
        windows=args.windows,
        contigs=args.contigs,
        rule=rule,
        promoter_bp=args.promoter_bp,
        labels=_names(args.labels),
        window_labels=_names(args.window_labels),
        allow_missing_labels=args.allow_missing_labels,
        compression=None if args.compression == "none" else args.compression,
        shard_bytes=int(args.shard_size * _MEGABYTE),
        overwrite=args.overwrite,
        cache_dir=args.cache_dir,
        show_progress=True,
        writer=writer_of(args),
    )
    for manifest in (result.genes, result.windows):
        if manifest is not None:
            print(_report(manifest))
    print(f"dropped: {len(result.dropped)} rows, listed in {result.directory / 'dropped.tsv'}")
    print(result.directory)
    return 0


def writer_of(args: argparse.Namespace) -> Writer:
    """The writer that the parsed options ask for.

    Raises:
      ValueError: less than one worker, both kinds at once, or Beam is not installed.
    """
    if args.workers < 1:
        raise ValueError(f"--workers {args.workers}; expected at least 1")
    if args.beam is not None:
        if args.workers > 1:
            raise ValueError("give either --workers or --beam; Beam has its own workers")
        from data_prep.beam import beam_writer

        return beam_writer(args.beam.split())
    return write_here if args.workers == 1 else processes(args.workers)


def _add_rule_arguments(group) -> None:
    def whole_bp(name: str, default: int, text: str) -> None:
        group.add_argument(
            name, type=int, metavar="BP", default=default, help=f"{text} (default: {default})"
        )

    whole_bp(
        "--window-bp",
        _RULE.window_bp,
        "longest element, base pairs; longer ones are cropped around the middle",
    )
    whole_bp("--promoter-bp", _PROMOTER_BP, "promoter window around the TSS, base pairs")
    whole_bp(
        "--min-distance-bp",
        _RULE.min_distance_bp,
        "elements at this distance (middle to TSS) or nearer are left out",
    )
    whole_bp("--max-distance-bp", _RULE.max_distance_bp, "elements farther than this are left out")
    group.add_argument(
        "--max-elements",
        type=int,
        metavar="N",
        default=_RULE.max_elements,
        help="the nearest N are kept (default: %(default)s)",
    )
    group.add_argument(
        "--self-promoter",
        choices=elements.SELF_PROMOTER_RULES,
        default=_RULE.self_promoter,
        help="first: the element over the gene's own promoter leads, however near "
        "(default: %(default)s)",
    )


def _check_request(genes, links, fasta, windows) -> None:
    if genes is None and windows is None:
        raise ValueError("nothing to build; give --genes (with --links), --windows, or both")
    if links is not None and genes is None:
        raise ValueError("--links belongs to --genes; give the table of genes too")
    if genes is not None and fasta is None:
        raise ValueError("--genes needs --fasta, the genome its coordinates are of")


def _split_of_contig(path: str | os.PathLike, genome: Genome | None) -> dict[str, str]:
    contigs = _as_in_fasta(tables.read_contigs(path), genome)
    return dict(zip(contigs["chrom"], contigs["split"], strict=True))


def _as_in_fasta(frame: pd.DataFrame, genome: Genome | None) -> pd.DataFrame:
    """The table with the FASTA's names of contigs; left as it is where none of them fits."""
    if genome is None or not set(frame["chrom"]) - set(genome.contigs):
        return frame
    try:
        return rename_contigs(
            frame, dict.fromkeys(genome.contigs), source=str(frame.attrs.get("path", "contigs"))
        )
    except NoCommonContig:
        return frame  # the plan names the row, the contig and the nearest name


def _inputs(**paths: str | os.PathLike | None) -> dict[str, dict[str, str]]:
    inputs = {}
    for name, path in paths.items():
        if path is not None:
            digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            inputs[name] = {"file": Path(path).name, "sha256": digest}
    return inputs


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _write_summary(folder: Path, made: dict[str, Manifest], num_dropped: int) -> None:
    datasets = {
        kind: {"manifest_sha256": manifest_sha256(folder / kind), "counts": manifest.counts}
        for kind, manifest in made.items()
    }
    summary = {"datasets": datasets, "dropped": num_dropped}
    (folder / records.MANIFEST_FILE).write_text(json.dumps(summary, indent=1) + "\n")


def _report(manifest: Manifest) -> str:
    size = sum(shard["bytes"] for shards in manifest.splits.values() for shard in shards)
    lines = [
        f"{manifest.kind}: {manifest.counts[manifest.kind]} in {len(manifest.splits)} splits, "
        f"{size / _MEGABYTE:.1f} MB; labels: {', '.join(manifest.label_names) or 'none'}"
    ]
    told = {name: n for name, n in manifest.counts.items() if n and name != manifest.kind}
    lines += [f"  {name.replace('_', ' ')}: {n}" for name, n in told.items()]
    return "\n".join(lines)
