"""Motifs that attributions are made of: `epinformer motifs`.

TF-MoDISco-lite finds patterns that recur among contributions, Tomtom names them by a motif
database, FIMO finds the named motifs in the sequences. These run without JAX; they are the extra
packages of [interpret], imported when they are needed.
"""

import argparse
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from absl import logging
from jaxtyping import Float

from epinformer_jax.analysis import attribution_file, motif_files, motifs_html
from epinformer_jax.analysis.attribution_file import Contributions
from epinformer_jax.analysis.motif_files import INSTALL, Motif
from epinformer_jax.data import atomic, tables
from epinformer_jax.data.chromosomes import chromosome_key

MAX_SEQLETS = 20_000
TRIM_TO = 0.3  # a pattern keeps positions whose contribution reaches this share of its highest
HITS_BELOW = 1e-4
MATCH_BELOW = 0.05
MIN_TARGETS = 25
SEQUENCE_COLUMNS = ["chrom", "start", "end", "strand", "name"]
DESCRIPTION = """\
Find the motifs that attributions are made of (needs the extra packages of [interpret]).

Reads the .npz of `epinformer attribution` or `epinformer mutagenesis` and writes into a directory:

  index.html      patterns with logos and their matches
  patterns.tsv    pattern, seqlets, consensus, mean contribution, best match
  matches.tsv     the motifs that each pattern matches best, by Tomtom: p, q, strand, offset
  seqlets.tsv     each place that a pattern is made of, 0-based half-open, with its contribution
  hits.tsv        places of the matched motifs in the sequences, by FIMO
  patterns.meme   the patterns as matrices
  manifest.json   options, inputs, counts

q is Benjamini-Hochberg over all patterns and motifs. Tomtom's p-values are drawn from the motifs it
is given: with fewer than 25 of them they mean little, so give a whole database beside your own."""


class Pattern(NamedTuple):
    """A recurring pattern, cut to the positions that contribute.

    Attributes:
      name: pos_0, pos_1, ... raise the prediction, neg_0, ... lower it.
      probabilities, contributions: of A, C, G, T at each position, mean of the seqlets.
      seqlets: row of the sequence, start, end, and whether it stands on the other strand.
    """

    name: str
    probabilities: Float[np.ndarray, "4 W"]
    contributions: Float[np.ndarray, "4 W"]
    seqlets: list[tuple[int, int, int, bool]]


def discover(
    given: Contributions, *, max_seqlets: int = MAX_SEQLETS, window_bp: int | None = None
) -> list[Pattern]:
    """Patterns by TF-MoDISco-lite, those that raise the prediction first, the most frequent first.

    `window_bp` keeps the middle of each sequence. Seqlets keep coordinates of the whole sequences.

    Raises:
      ValueError: modisco-lite is not installed, or there are too few contributions to compare.
    """
    try:
        from modiscolite.tfmodisco import TFMoDISco
    except ImportError:
        raise ValueError(f"modisco-lite is not installed; {INSTALL}") from None
    one_hot = given.one_hot.transpose(0, 2, 1).astype(np.float32)
    scores = given.hypothetical.transpose(0, 2, 1).astype(np.float32)
    first = 0
    if window_bp is not None and window_bp < one_hot.shape[1]:
        first = (one_hot.shape[1] - window_bp) // 2
        one_hot, scores = (a[:, first : first + window_bp] for a in (one_hot, scores))
    if not (one_hot * scores).any():
        raise ValueError("all contributions are 0, so there is no pattern to find")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numba and leidenalg, about themselves
        try:
            found = TFMoDISco(
                one_hot=one_hot,
                hypothetical_contribs=scores,
                max_seqlets_per_metacluster=max_seqlets,
            )
        except (ValueError, IndexError, ZeroDivisionError) as error:
            raise ValueError(
                f"no pattern can be found in {len(given.one_hot)} sequences ({error}); give more "
                "sequences"
            ) from None
    patterns = []
    for sign, group in zip(("pos", "neg"), found, strict=True):
        ordered = sorted(group or [], key=lambda own: -len(own.seqlets))
        patterns += [_pattern(f"{sign}_{i}", own, first) for i, own in enumerate(ordered)]
    return patterns


def match(patterns: Sequence[Pattern], motifs: Sequence[Motif], *, keep: int = 10) -> pd.DataFrame:
    """Tomtom of each pattern against each motif: pattern, motif, name, p, q, strand, offset,
    overlap; the `keep` best of each pattern.

    Raises:
      ValueError: memelite is not installed.
    """
    names = ["pattern", "motif", "name", "p", "q", "strand", "offset", "overlap"]
    if not patterns or not motifs:
        return pd.DataFrame(columns=names)
    tomtom = _memelite().tomtom
    if len(motifs) < MIN_TARGETS:
        logging.warning(
            "Tomtom has %d motifs to compare with; below %d its p-values mean little: give a whole "
            "database beside them",
            len(motifs),
            MIN_TARGETS,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p, _, offsets, overlaps, strands = tomtom(
            [np.ascontiguousarray(own.probabilities) for own in patterns],
            [np.ascontiguousarray(own.probabilities) for own in motifs],
        )
    q = benjamini_hochberg(p)
    rows = []
    for i, pattern in enumerate(patterns):
        for j in np.argsort(p[i], kind="stable")[:keep]:
            strand = "-" if strands[i, j] else "+"
            place = (p[i, j], q[i, j], strand, int(offsets[i, j]), int(overlaps[i, j]))
            rows.append((pattern.name, motifs[j].id, motifs[j].name, *place))
    return pd.DataFrame(rows, columns=names)


def benjamini_hochberg(p: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """False discovery rates over all values together."""
    flat = np.asarray(p, np.float64).ravel()
    order = np.argsort(flat)
    raised = flat[order] * flat.size / np.arange(1, flat.size + 1)
    q = np.empty_like(flat)
    q[order] = np.minimum(np.minimum.accumulate(raised[::-1])[::-1], 1)
    return q.reshape(np.shape(p))


def hits(
    given: Contributions, motifs: Sequence[Motif], *, below: float = HITS_BELOW
) -> pd.DataFrame:
    """FIMO hits of motifs in the sequences: chrom, start, end, strand, name, motif, p, score, and
    the contribution of the bases under them.

    Raises:
      ValueError: memelite is not installed.
    """
    columns = [*SEQUENCE_COLUMNS, "motif", "p", "score", "contribution"]
    if not motifs:
        return pd.DataFrame(columns=columns)
    fimo = _memelite().fimo
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = fimo(
            {motif.id: np.ascontiguousarray(motif.probabilities) for motif in motifs},
            np.ascontiguousarray(given.one_hot.astype(np.int8)),
            threshold=below,
        )
    total = np.cumsum((given.one_hot * given.hypothetical).sum(axis=1), axis=1)
    total = np.pad(total, ((0, 0), (1, 0)))
    parts = []
    for table in found:
        row = table["sequence_name"].to_numpy(np.int64)
        start, end = (table[name].to_numpy(np.int64) for name in ("start", "end"))
        part = _places(given, row, start, end, table["strand"].to_numpy() == "-")
        part["motif"] = table["motif_name"].to_numpy()
        part["p"], part["score"] = table["p-value"].to_numpy(), table["score"].to_numpy()
        part["contribution"] = total[row, end] - total[row, start]
        parts.append(part)
    filled = [part for part in parts if len(part)]
    if not filled:
        return pd.DataFrame(columns=columns)
    return _sorted(pd.concat(filled, ignore_index=True)[columns])


def seqlet_table(given: Contributions, patterns: Sequence[Pattern]) -> pd.DataFrame:
    """One row a seqlet: chrom, start, end, strand, name, pattern, contribution.

    Where a sequence has no place, start and end count from its first base.
    """
    contributions = (given.one_hot * given.hypothetical).sum(axis=1)
    parts = []
    for pattern in patterns:
        row, start, end, turned = (np.array(own) for own in zip(*pattern.seqlets, strict=True))
        part = _places(given, row, start, end, turned)
        part["pattern"] = pattern.name
        part["contribution"] = [
            float(contributions[i, s:e].sum()) for i, s, e in zip(row, start, end, strict=True)
        ]
        parts.append(part)
    if not parts:
        return pd.DataFrame(columns=[*SEQUENCE_COLUMNS, "pattern", "contribution"])
    return _sorted(pd.concat(parts, ignore_index=True))


def pattern_table(
    patterns: Sequence[Pattern], seqlets: pd.DataFrame, matches: pd.DataFrame
) -> pd.DataFrame:
    """One row a pattern: seqlets, consensus, mean_contribution, best_match, q, is_match (q below
    0.05); best_match is "" and q NaN where there was nothing to match.
    """
    mean = seqlets.groupby("pattern")["contribution"].mean()
    best = matches.drop_duplicates("pattern").set_index("pattern")
    rows = []
    for own in patterns:
        told, q = "", np.nan
        if own.name in best.index:
            told = f"{best.loc[own.name, 'motif']} {best.loc[own.name, 'name']}".strip()
            q = float(best.loc[own.name, "q"])
        text = motif_files.consensus(own.probabilities)
        rows.append((own.name, len(own.seqlets), text, mean[own.name], told, q, q < MATCH_BELOW))
    names = ["pattern", "seqlets", "consensus", "mean_contribution", "best_match", "q", "is_match"]
    return pd.DataFrame(rows, columns=names)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `epinformer motifs`."""
    parser.add_argument(
        "--attributions",
        type=Path,
        required=True,
        help=".npz of epinformer attribution or mutagenesis",
    )
    parser.add_argument(
        "--motifs",
        nargs="+",
        default=["JASPAR2026"],
        help="JASPAR or MEME files, plain or gzip, or a JASPAR release (default: JASPAR2026, "
        "CORE vertebrates)",
    )
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument(
        "--max-seqlets",
        type=int,
        default=MAX_SEQLETS,
        help="seqlets of either sign that are compared (default: %(default)s)",
    )
    parser.add_argument(
        "--window-bp", type=int, help="look at the middle of each sequence only (default: all)"
    )
    parser.add_argument(
        "--hits-below",
        type=float,
        default=HITS_BELOW,
        help="p-value of FIMO hits (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an older output")


def run(args: argparse.Namespace) -> int:
    """Finds, names and writes motifs; returns the exit code."""
    atomic.refuse_existing(args.out, overwrite=args.overwrite)
    given = attribution_file.read(args.attributions)
    database = motif_files.read_motifs(args.motifs)
    _memelite()
    logging.info("%d sequences: looking for patterns, which takes minutes", len(given.one_hot))
    patterns = discover(given, max_seqlets=args.max_seqlets, window_bp=args.window_bp)
    logging.info("%d patterns: comparing with %d motifs", len(patterns), len(database))
    matches = match(patterns, database)
    named = set(matches.loc[matches["q"] < MATCH_BELOW, "motif"])
    found = hits(given, [own for own in database if own.id in named], below=args.hits_below)
    seqlets = seqlet_table(given, patterns)
    table = pattern_table(patterns, seqlets, matches)
    with atomic.atomic_directory(args.out, overwrite=args.overwrite) as folder:
        for name, own in {
            "patterns": table,
            "matches": matches,
            "seqlets": seqlets,
            "hits": found,
        }.items():
            tables.write_table(own, folder / f"{name}.tsv", float_format="%.6g")
        own = [Motif(p.name, "", p.probabilities) for p in patterns]
        motif_files.write_meme(folder / "patterns.meme", own)
        facts = (
            f"{len(given.one_hot):,} sequences of {args.attributions.name}; {len(patterns)} "
            f"patterns, {int(table['is_match'].sum())} with a match at q < {MATCH_BELOW:g} among "
            f"{len(database):,} motifs"
        )
        text = motifs_html.page(
            f"Motifs of {args.attributions.stem}",
            facts,
            table,
            matches,
            {p.name: p.contributions for p in patterns},
            {motif.id: motif.probabilities for motif in database},
        )
        (folder / "index.html").write_text(text, encoding="utf-8")
        manifest = {
            "attributions": str(args.attributions),
            "motifs": [str(source) for source in args.motifs],
            "options": {name: getattr(args, name) for name in ("max_seqlets", "window_bp")}
            | {"hits_below": args.hits_below},
            "counts": {
                "sequences": len(given.one_hot),
                "patterns": len(patterns),
                "seqlets": len(seqlets),
                "database": len(database),
                "hits": len(found),
            },
        }
        (folder / atomic.MARKER).write_text(json.dumps(manifest, indent=1) + "\n")
    print(facts)
    print(args.out / "index.html")
    return 0


def _memelite():
    try:
        import memelite
    except ImportError:
        raise ValueError(f"memelite is not installed; {INSTALL}") from None
    return memelite


def _pattern(name: str, own, first: int) -> Pattern:
    """A pattern of modisco-lite, cut to the positions that contribute."""
    probabilities, contributions = np.array(own.sequence), np.array(own.contrib_scores)
    size = np.abs(contributions.sum(axis=1))
    kept = np.flatnonzero(size >= TRIM_TO * size.max())
    left, right = int(kept[0]), int(kept[-1]) + 1
    length = len(size)
    seqlets = []
    for seqlet in own.seqlets:
        turned = bool(seqlet.is_revcomp)
        start = seqlet.start + (length - right if turned else left) + first
        seqlets.append((int(seqlet.example_idx), start, start + right - left, turned))
    shares = probabilities[left:right].T.astype(np.float64)
    shares = shares / shares.sum(axis=0, keepdims=True)
    return Pattern(name, shares, contributions[left:right].T.astype(np.float64), seqlets)


def _places(given: Contributions, row, start, end, turned) -> pd.DataFrame:
    """Coordinates in the genome, or in the sequence where it has none."""
    offset = np.maximum(given.start[row], 0)
    return pd.DataFrame(
        {
            "chrom": given.chrom[row],
            "start": offset + start,
            "end": offset + end,
            "strand": np.where(turned, "-", "+"),
            "name": given.name[row],
        }
    )


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    """By chromosome in natural order, then start."""
    keys = {chrom: chromosome_key(chrom) for chrom in table["chrom"].unique()}
    rank = {chrom: i for i, chrom in enumerate(sorted(keys, key=keys.__getitem__))}
    order = np.lexsort((table["end"], table["start"], table["chrom"].map(rank)))
    return table.iloc[order].reset_index(drop=True)
