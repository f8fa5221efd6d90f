"""Fields of a preparation config: default, unit, meaning, check. Files in configs/prep/ choose.

A config file has a function get_config() that returns an ml_collections.ConfigDict with the fields
that differ from the defaults here; an unknown or wrong field is an error that names it. Relative
paths are taken from the field `root`; those of samples.tsv from the table's own folder.
"""

import ast
import dataclasses
import difflib
import os
import runpy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from data_prep.abc_scores import SCORE_RULES, SELF_PROMOTER_SCORES
from data_prep.annotation import GENE_KEYS, TSS_RULES
from data_prep.expression import TRANSFORMS
from data_prep.link_rules import LINK_RULES, ORDERS
from data_prep.power_law import OBSERVED, REFERENCE
from data_prep.quantile import FORMS
from data_prep.reads import READ_ENDS, READ_FILTERS, STRANDS
from data_prep.tracks import TRACK_UNITS
from data_prep.windows import LAYOUTS
from epinformer_jax.data.elements import SELF_PROMOTER_RULES


@dataclasses.dataclass(frozen=True)
class Field:
    """One field: its default, what it means (unit last), and which values are allowed."""

    default: Any
    meaning: str
    allowed: Callable[[Any], bool]
    expected: str


def _text(default: str, meaning: str, *, needed: bool = False) -> Field:
    expected = "text that is not empty" if needed else "text"
    return Field(default, meaning, lambda v: isinstance(v, str) and (v or not needed), expected)


def _one_of(default: str, meaning: str, *choices: str) -> Field:
    return Field(default, meaning, lambda v: v in choices, f"one of {', '.join(choices)}")


def _integer(default: int, meaning: str, least: int = 0) -> Field:
    def allowed(v: Any) -> bool:
        return isinstance(v, int) and not isinstance(v, bool) and v >= least

    return Field(default, meaning, allowed, f"a whole number of at least {least}")


def _number(default: float, meaning: str, least: float, most: float) -> Field:
    def allowed(v: Any) -> bool:
        return isinstance(v, int | float) and not isinstance(v, bool) and least <= v <= most

    return Field(default, meaning, allowed, f"a number from {least:g} to {most:g}")


def _flag(default: bool, meaning: str) -> Field:
    return Field(default, meaning, lambda v: isinstance(v, bool), "True or False")


FIELDS: dict[str, Any] = {
    "name": _text("", "name of the data set, for the QC page"),
    "root": _text("", "folder that relative paths start from; empty: the working directory"),
    "samples": _text("", "table of cell types and their files (samples.tsv)", needed=True),
    "genome": {
        "name": _text("", "name of the assembly"),
        "fasta": _text("", "genome, plain or gzip", needed=True),
        "contigs": _text("", "contig lengths: chrom.sizes or .fai", needed=True),
        "splits": _text("", "contigs.tsv: the chromosome each contig counts as; empty: its own"),
        "aliases": _text("", "table found<TAB>expected of contig names"),
        "blacklist": _text("", "BED of places to leave out"),
    },
    "genes": {
        "annotation": _text("", "gene BED, GTF, or table with a TSS", needed=True),
        "tss_rule": _one_of("end-1", "TSS of minus-strand genes", *TSS_RULES),
        "key": _one_of("id", "what names a gene", *GENE_KEYS),
        "tss_flank_bp": _integer(500, "promoter signals are counted over TSS +- this, bp", 1),
        "mrna_features": _text("", "table of the eight features; empty: computed, or the means"),
        "mrna_gtf": _text("", "GTF to compute the features from, where there is no table"),
        "only": _text("", "table with a gene_id column: these genes only"),
    },
    "labels": {
        "name": _text("rna", "label column", needed=True),
        "transform": _one_of("z-log10", "of the expression column", *TRANSFORMS),
        "keep_unlabelled": _flag(False, "keep genes without a value; their label is missing"),
    },
    "candidates": {
        "peaks_kept": _integer(150_000, "strongest peaks; 0 keeps all"),
        "extend_bp": _integer(250, "on each side of a summit, bp", 1),
        "blacklist_rule": _one_of("subtract", "what the blacklist does", "subtract", "drop"),
        "min_length_bp": _integer(1, "shortest element kept, bp", 1),
        "include_promoters": _flag(False, "add TSS windows as elements before merging"),
    },
    "signals": {
        "reads": _one_of("published", "which alignments count", *READ_FILTERS),
        "min_mapq": _integer(-1, "overrides the mapping quality of reads; -1: no", -1),
        "duplicates": _one_of("", "overrides reads", "", "keep", "drop"),
        "strand": _one_of("both", "of the alignments that count", *STRANDS),
        "paired": _one_of("reads", "what is counted of pairs", *READ_ENDS),
        "pool": _one_of("mean", "how replicates are pooled", "mean", "sum"),
        "track_units": _one_of("", "what bigWig values are", "", *TRACK_UNITS),
        "accept_fold_change": _flag(False, "let fold-change tracks through"),
        "exclude_contigs": _text("", "comma-separated, left out also of the total"),
        "barcodes": _text("", "barcode<TAB>cluster table for fragment files"),
        "cluster": _text("", "only the cells of this cluster"),
        "quantile_reference": _text("", "EnhancersQNormRef table: ABC scores of normalised RPM"),
        "quantile_form": _one_of("rank", "rank: ABC pipeline; position: original project", *FORMS),
    },
    "contact": {
        "resolution_bp": _integer(5000, "bin width, bp", 1),
        "normalisation": _text("", "balancing to try, comma-separated; empty: the usual order"),
        "average": _text("", "average Hi-C for cell types without contacts of their own"),
        "divide_by_row_sum": _flag(False, "text contacts are raw"),
        "gamma": _number(OBSERVED.gamma, "observed power law", 1e-6, 10),
        "scale": _number(OBSERVED.scale, "observed power law", -100, 100),
        "reference_gamma": _number(REFERENCE.gamma, "power law that Hi-C is scaled to", 1e-6, 10),
        "reference_scale": _number(REFERENCE.scale, "power law that Hi-C is scaled to", -100, 100),
        "pseudocount_distance_bp": _number(5000.0, "of ABC scores, bp", 0, 1e9),
        "tss_contribution_percent": _number(100.0, "of its neighbour for the diagonal", 0, 1e6),
    },
    "links": {
        "rule": _one_of("all", "which links the table holds", *LINK_RULES),
        "min_distance_bp": _integer(-2, "smallest, exclusive, bp; -2: the rule's", -2),
        "max_distance_bp": _integer(100_000, "largest distance in the table, bp", 1),
        "max_elements": _integer(0, "elements a gene; 0: the rule's"),
        "order": _one_of("nearest", "who stays under the limit", *ORDERS),
        "score_rule": _one_of("floor", "abc: to the last digit as the ABC pipeline", *SCORE_RULES),
        "score_distance_bp": _integer(5_000_000, "elements within this share ABC scores, bp", 1),
        "score_activity": _text("", "column for ABC scores; empty: activity_quantile, or activity"),
        "self_promoter_score": _one_of("one", "of ABC scores", *SELF_PROMOTER_SCORES),
    },
    "windows": {
        "make": _flag(True, "make windows for the activity encoder"),
        "layout": _one_of("new", "windows around a summit", *LAYOUTS),
        "per_summit": _integer(0, "windows a summit, odd; 0: the layout's"),
        "stride_bp": _integer(0, "between windows, bp; 0: the layout's"),
        "peaks_kept": _integer(100_000, "strongest peaks; 0 keeps all"),
        "around_tss": _flag(False, "windows around every TSS too"),
        "negative_fraction": _number(-1.0, "negatives as a share of peaks; -1: layout's", -1, 1),
        "clearance_bp": _integer(1000, "between negatives and peaks, bp"),
        "seed": _integer(42, "places of the negatives"),
        "max_unknown": _number(0.5, "largest share of N in a window", 0, 1),
    },
    "records": {
        "min_distance_bp": _integer(1000, "elements this near or nearer are left out, bp", -1),
        "max_distance_bp": _integer(100_000, "elements farther than this are left out, bp", 1),
        "max_elements": _integer(60, "the nearest so many are kept", 1),
        "window_bp": _integer(2000, "longest element, bp", 2),
        "promoter_bp": _integer(2000, "promoter window, bp", 2),
        "self_promoter": _one_of("exclude", "the gene's own promoter", *SELF_PROMOTER_RULES),
        "compression": _one_of("none", "of sequences", "none", "zlib"),
    },
}
_TOGETHER = "links.max_distance_bp must reach records.max_distance_bp, or links are missing"


def load(path: str | os.PathLike, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Runs get_config() of a Python file, applies overrides (`field=value`) and checks the result.

    Raises:
      ValueError: no such file or function, it fails, or what `resolve` raises.
    """
    if not os.path.isfile(path):
        raise ValueError(f"{path}: no such config file; see configs/prep/")
    try:
        found = runpy.run_path(os.fspath(path))
    except Exception as error:  # it is Python: it may fail in any way
        raise ValueError(
            f"{path}: cannot be run as Python ({type(error).__name__}: {error}); a config is a "
            "Python file with a function get_config(), as those in configs/prep/"
        ) from error
    if not callable(found.get("get_config")):
        raise ValueError(f"{path}: has no function get_config()")
    chosen = found["get_config"]()
    if not isinstance(chosen, ml_collections.ConfigDict):
        raise ValueError(f"{path}: get_config() returned {type(chosen).__name__}, not a ConfigDict")
    return resolve(chosen.to_dict(), overrides, source=os.fspath(path))


def resolve(
    chosen: Mapping[str, Any], overrides: Sequence[str] = (), *, source: str = "config"
) -> ml_collections.ConfigDict:
    """All fields: the defaults, then what is chosen, then the overrides; locked.

    Raises:
      ValueError: an unknown field (names the nearest), or a value that is not allowed.
    """
    known = dict(_walk(FIELDS))
    values = {path: field.default for path, field in known.items()}
    given = dict(_walk(chosen))
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set {text}: expected field=value")
        given[path] = _parsed(value, known.get(path))
    for path, value in given.items():
        if path not in known:
            near = difflib.get_close_matches(path, known, n=1)
            raise ValueError(
                f"{source}: {path} is not a field"
                + (f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}")
            )
        values[path] = value
    for path, field in known.items():
        if not field.allowed(values[path]):
            raise ValueError(
                f"{source}: {path}={values[path]!r}; expected {field.expected} ({field.meaning})"
            )
    if values["links.max_distance_bp"] < values["records.max_distance_bp"]:
        raise ValueError(f"{source}: {_TOGETHER}")
    return ml_collections.ConfigDict(_filled(FIELDS, values)).lock()


def describe() -> str:
    """One line a field: name, default, meaning."""
    return "\n".join(
        f"{path} = {field.default!r}  # {field.meaning}; {field.expected}"
        for path, field in _walk(FIELDS)
    )


def _parsed(text: str, field: Field | None) -> Any:
    if field is None or isinstance(field.default, str):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _filled(
    fields: Mapping[str, Any], values: Mapping[str, Any], prefix: str = ""
) -> dict[str, Any]:
    return {
        name: _filled(field, values, f"{prefix}{name}.")
        if isinstance(field, Mapping)
        else values[prefix + name]
        for name, field in fields.items()
    }


def _walk(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
