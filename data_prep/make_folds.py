"""Folds for any genome: whole chromosomes, as many genes (or bases) in each test part as can be.

    python -m data_prep folds --n 12 --genes genes.tsv --out folds.tsv

Every chromosome is tested once; fold k validates on what fold k - 1 tests. Scaffolds are grouped:
those of a chromosome (chr1_KI270706v1_random) count as that chromosome, the others share splits.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from data_prep.annotation import read_annotation
from data_prep.contig_names import read_contig_lengths
from data_prep.outputs import write_frame
from epinformer_jax.data import chromosomes, folds
from epinformer_jax.data.genome import Genome

DESCRIPTION = """\
Make balanced whole-chromosome folds for any genome: folds.tsv (split, fold, role), and contigs.tsv
(chrom, split) where scaffolds are grouped; give both to build and training."""
SCAFFOLDS = "scaffolds"
# A contig with less than this share of the heaviest one is a scaffold, and so are all after the 100
# heaviest: every split is a set of files.
MIN_SHARE = 0.05
MAX_OWN_SPLITS = 100


class Folds(NamedTuple):
    """folds: split, fold, role. contigs: chrom, split (all of them). weights: split -> number."""

    folds: pd.DataFrame
    contigs: pd.DataFrame
    weights: dict[str, float]


def make_folds(weights: Mapping[str, float], *, number: int, min_share: float = MIN_SHARE) -> Folds:
    """Folds over contigs with weights (genes or bases), each contig tested exactly once.

    The heaviest split goes to the lightest test part, and so on: no part exceeds the mean by more
    than the heaviest split. The same weights give the same folds, in whatever order they come.

    Raises:
      ValueError: fewer than 2 folds, no weight, or too few splits for so many folds.
    """
    if number < 2:
        raise ValueError(f"{number} folds; expected at least 2")
    if not weights or sum(weights.values()) <= 0:
        raise ValueError("no contig has any gene (or base); is it the right file?")
    split_of = group_scaffolds(weights, number=number, min_share=min_share)
    loads: dict[str, float] = {}
    for contig in chromosomes.natural_order(weights):
        split = split_of[contig]
        loads[split] = loads.get(split, 0.0) + float(weights[contig])
    needed = number if number > 2 else 3
    if len(loads) < needed:
        raise ValueError(
            f"{len(loads)} splits are too few for {number} folds; expected at least {needed}: ask "
            "for fewer folds, or lower --min-share"
        )
    parts = _deal(loads, number)
    parts.sort(key=lambda part: chromosomes.chromosome_key(chromosomes.natural_order(part)[0]))
    rows = []
    for index, test in enumerate(parts):
        valid = _validation(parts, index, loads)
        for split in chromosomes.natural_order(loads):
            role = "test" if split in test else "valid" if split in valid else "train"
            rows.append((split, f"fold_{index + 1}", role))
    contigs = [(contig, split_of[contig]) for contig in chromosomes.natural_order(weights)]
    return Folds(
        pd.DataFrame(rows, columns=["split", "fold", "role"]),
        pd.DataFrame(contigs, columns=["chrom", "split"]),
        loads,
    )


def group_scaffolds(
    weights: Mapping[str, float], *, number: int, min_share: float = MIN_SHARE
) -> dict[str, str]:
    """The split of every contig: its own name, its chromosome's, or one of `number` shared ones.

    A contig is a scaffold when it has less than min_share of the heaviest contig, or a name that no
    split can have, or is not among the 100 heaviest. Scaffolds that say their chromosome before a
    "_" count as it.
    """
    least = min_share * max(weights.values())
    heaviest = sorted(chromosomes.natural_order(weights), key=lambda name: -weights[name])
    can_be_own = [name for name in heaviest if weights[name] >= least and _can_be_split(name)]
    own = set(can_be_own[:MAX_OWN_SPLITS])
    # A chromosome's alternative places are no chromosomes, however many genes they have.
    own -= {name for name in own if name.partition("_")[0] in own and "_" in name}
    split_of = {name: name for name in own}
    shared = []
    for name in chromosomes.natural_order(set(weights) - own):
        parent = name.partition("_")[0]
        if parent in own:
            split_of[name] = parent
        else:
            shared.append(name)
    bins = _deal({name: float(weights[name]) for name in shared}, number)
    filled = [names for names in bins if names]
    for index, names in enumerate(filled, start=1):
        label = SCAFFOLDS if len(filled) == 1 else f"{SCAFFOLDS}_{index}"
        split_of.update(dict.fromkeys(names, label))
    return split_of


def _can_be_split(name: str) -> bool:
    try:
        chromosomes.check_split_name(name)
    except ValueError:
        return False
    return True


def _deal(loads: Mapping[str, float], number: int) -> list[list[str]]:
    """The heaviest first, each to the lightest of `number` parts; ties by natural order."""
    parts: list[list[str]] = [[] for _ in range(number)]
    sums = [0.0] * number
    order = sorted(chromosomes.natural_order(loads), key=lambda name: -loads[name])
    for name in order:
        lightest = min(range(number), key=lambda part: (sums[part], len(parts[part]), part))
        parts[lightest].append(name)
        sums[lightest] += loads[name]
    return parts


def _validation(parts: Sequence[list[str]], index: int, loads: Mapping[str, float]) -> list[str]:
    """What the fold before tests; of two folds, one light split of those left."""
    before = parts[index - 1]
    if len(parts) > 2:
        return before
    if len(before) < 2:
        raise ValueError(
            f"two folds leave {before[0]} alone to train and validate on; ask for 3 folds"
        )
    return [min(chromosomes.natural_order(before), key=lambda name: loads[name])]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep folds`."""
    add = parser.add_argument
    add("--n", type=int, default=12, help="number of folds (default: %(default)s)")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--genes", help="genes.tsv, gene BED or GTF: balances numbers of genes")
    where.add_argument("--fasta", help="genome: balances numbers of bases")
    where.add_argument("--contigs", help="chrom.sizes or .fai: balances numbers of bases")
    add("--exclude", default="", help="comma-separated contigs that stay out, chrM,chrY say")
    add(
        "--min-share",
        type=float,
        default=MIN_SHARE,
        help="contigs with less than this share of the heaviest are grouped (default: %(default)s)",
    )
    add("--out", required=True, help="folds.tsv")
    add("--contigs-out", help="contigs.tsv (default: contigs.tsv beside --out); only where needed")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 0.

    Raises:
      ValueError: an input is wrong, or the folds cannot be made.
    """
    if not 0 <= args.min_share <= 1:
        raise ValueError(f"--min-share {args.min_share} is not between 0 and 1")
    weights = _weights(args)
    excluded = [name.strip() for name in args.exclude.split(",") if name.strip()]
    for name in excluded:
        if name not in weights:
            raise ValueError(f"--exclude {name}: {chromosomes.suggest(name, weights)}")
        del weights[name]
    made = make_folds(weights, number=args.n, min_share=args.min_share)
    write_frame(made.folds, args.out)
    known = folds.read_folds(args.out)  # what is written can be read
    unit = "genes" if args.genes else "bases"
    for fold in known.values():
        count = {role: sum(made.weights[s] for s in getattr(fold, role)) for role in folds.ROLES}
        said = ", ".join(f"{role} {number:,.0f}" for role, number in count.items())
        print(f"{fold.name}: {said} {unit}; tests {', '.join(fold.test)}")
    if excluded:
        print(f"left out: {', '.join(excluded)}")
    if (made.contigs["chrom"] != made.contigs["split"]).any():
        path = args.contigs_out or str(Path(args.out).with_name("contigs.tsv"))
        write_frame(made.contigs, path)
        grouped = int((made.contigs["chrom"] != made.contigs["split"]).sum())
        print(f"{grouped:,} scaffolds are grouped; give {path} to build as --contigs")
    print(f"wrote {args.out}")
    return 0


def _weights(args: argparse.Namespace) -> dict[str, float]:
    if args.genes:
        counts = read_annotation(args.genes).genes["chrom"].value_counts()
        return {str(name): float(count) for name, count in counts.items()}
    if args.fasta:
        with Genome(args.fasta) as genome:
            return {name: float(length) for name, length in genome.contigs.items()}
    return {name: float(length) for name, length in read_contig_lengths(args.contigs).items()}
