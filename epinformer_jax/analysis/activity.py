"""Activity of sequences: `epinformer activity`."""

import argparse
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from jaxtyping import UInt8
from tqdm import tqdm

from epinformer_jax.analysis import ensembles
from epinformer_jax.analysis.ensembles import Ensemble, Model
from epinformer_jax.data import batches, sequence, tables
from epinformer_jax.data.genome import Genome
from epinformer_jax.train import tasks

BATCH_SIZE = 256
DESCRIPTION = """\
Predict the activity of sequences with an activity model (an encoder).

Sequences come from a FASTA, one a record, or, with --windows, from a genome. One shorter than the
model's window (256 bp) is centred in it; a longer one is an error."""
_BASES = {"log2": 2.0, "log10": 10.0}

Codes = UInt8[np.ndarray, "_"]


def predict_activity(
    models: Sequence[Model],
    names: Sequence[str],
    codes: Sequence[Codes],
    *,
    splits: Sequence[str] | None = None,
    ensemble: Ensemble = "auto",
    average_strands: bool = False,
    batch_size: int = BATCH_SIZE,
    show_progress: bool = False,
) -> pd.DataFrame:
    """One row a sequence: name, the label (such as log2_activity), activity, fold, in_training.

    `splits` names each sequence's chromosome, so that the fold that tests it can be asked; without
    it all models are averaged. With several speaking for one sequence, sd and a column for each
    model follow. `activity` undoes the label's logarithm and is 0 at least; it is left out when the
    label is none. `average_strands` takes the mean of both strands, before the logarithm is undone.

    Raises:
      ValueError: nothing to predict, a sequence longer than the window, or held-out predictions are
        impossible.
    """
    if not len(codes):
        raise ValueError("there is no sequence to predict")
    info = models[0].info
    window_bp = info.model.window_bp
    for name, own in zip(names, codes, strict=True):
        if not 0 < len(own) <= window_bp:
            raise ValueError(
                f"sequence {name} has {len(own)} bases, expected 1 to {window_bp}; cut it first"
            )
    known_splits = [""] * len(codes) if splits is None else list(splits)
    speaking = ensembles.speakers(models, known_splits, names, ensemble)
    values = np.full(speaking.shape, np.nan)
    strands = [codes, [sequence.reverse_complement(own) for own in codes]]
    strands = strands if average_strands else strands[:1]
    total = int(speaking.sum()) * len(strands)
    with tqdm(total=total, unit="sequence", disable=None if show_progress else True) as bar:
        for row, (model, mine) in enumerate(zip(models, speaking, strict=True)):
            chosen = np.flatnonzero(mine)
            parts = [_run(model, [own[i] for i in chosen], batch_size, bar) for own in strands]
            values[row, chosen] = np.mean(parts, axis=0)
    table = pd.DataFrame({"name": list(names), info.label: np.nanmean(values, axis=0)})
    transform = info.label_transform
    if transform.get("name") in _BASES and "offset" in transform:
        amount = _BASES[transform["name"]] ** table[info.label] - transform["offset"]
        table["activity"] = amount.clip(lower=0)
    if (speaking.sum(axis=0) > 1).any():
        table["sd"] = np.nanstd(values, axis=0)
        table = table.assign(**{m.name: v for m, v in zip(models, values, strict=True)})
    if splits is not None:
        table["fold"], table["in_training"] = ensembles.fold_and_training(models, splits, speaking)
    return table


def read_fasta(path: str | os.PathLike, cache_dir=None) -> tuple[list[str], list[Codes]]:
    """Names and sequences of a FASTA, in file order.

    Raises:
      ValueError: not FASTA, or a name twice.
    """
    with Genome(path, cache_dir) as genome:
        names = list(genome.contigs)
        return names, [genome.fetch(name, 0, genome.contigs[name]) for name in names]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `epinformer activity`."""
    parser.add_argument(
        "--model", type=Path, nargs="+", required=True, help="model directories, or a run directory"
    )
    parser.add_argument(
        "--fasta", type=Path, required=True, help="sequences; with --windows: the genome"
    )
    parser.add_argument("--windows", type=Path, help="chrom, start, end, optional name")
    parser.add_argument("--contigs", type=Path, help="chrom, split: chromosome of each contig")
    parser.add_argument(
        "--ensemble",
        choices=ensembles.ENSEMBLES,
        default="auto",
        help="with --windows: the fold that tests a window, else the mean of all (default: auto)",
    )
    parser.add_argument(
        "--average-strands", action="store_true", help="mean of a sequence and its other strand"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="table, .tsv or .tsv.gz: sequences in the order of --fasta; windows by chromosome and "
        "position, with the columns of --windows",
    )
    parser.add_argument(
        "--batch-size", type=int, default=BATCH_SIZE, help="sequences at once (default: 256)"
    )
    parser.add_argument("--cache-dir", type=Path, help="where gzip FASTA are unpacked")


def run(args: argparse.Namespace) -> int:
    """Predicts and writes the table; returns the exit code."""
    models = ensembles.load_models(args.model, kind="activity")
    windows, splits = None, None
    if args.windows is None:
        names, codes = read_fasta(args.fasta, args.cache_dir)
    else:
        windows, codes, splits = _read_windows(args)
        names = list(windows["name"])
    table = predict_activity(
        models,
        names,
        codes,
        splits=splits,
        ensemble=args.ensemble,
        average_strands=args.average_strands,
        batch_size=args.batch_size,
        show_progress=True,
    )
    if windows is not None:
        carried = [name for name in windows if name not in table]
        table = table.join(windows[carried].reset_index(drop=True))
    tables.write_table(table, args.out, float_format="%.7g", keep_order=windows is None)
    print(args.out)
    return 0


@functools.lru_cache(maxsize=8)
def _predict_step(objective: tasks.Objective):
    """The jitted prediction (variables, batch) -> (predictions, no attention)."""
    return jax.jit(functools.partial(tasks.predict, objective))


def _read_windows(args: argparse.Namespace) -> tuple[pd.DataFrame, list[Codes], list[str]]:
    windows = tables.read_windows(args.windows, labels=())
    split_of = {}
    if args.contigs is not None:
        contigs = tables.read_contigs(args.contigs)
        split_of = dict(zip(contigs["chrom"], contigs["split"], strict=True))
    with Genome(args.fasta, args.cache_dir) as genome:
        places = zip(windows["chrom"], windows["start"], windows["end"], strict=True)
        codes = [genome.fetch(chrom, int(start), int(end)) for chrom, start, end in places]
    splits = [split_of.get(chrom, chrom) for chrom in windows["chrom"]]
    return windows, codes, splits


def _run(model: Model, codes: Sequence[Codes], batch_size: int, bar) -> np.ndarray:
    config = model.info.model
    objective = tasks.Objective(config, "mse", unknown_base=model.info.unknown_base)
    step = _predict_step(objective)
    variables = model.variables
    size = min(batch_size, max(len(codes), 1))
    predictions = [np.empty(0)]
    for first in range(0, len(codes), size):
        chosen = list(codes[first : first + size])
        labels = np.zeros(len(chosen), np.float32)
        batch = batches.pack_windows(chosen, labels, window_bp=config.window_bp, batch_size=size)
        predictions.append(jax.device_get(step(variables, batch)[0])[: len(chosen)])
        bar.update(len(chosen))
    return np.concatenate(predictions)
