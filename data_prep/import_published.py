"""The original's data as ours: its ABC tables become genes.tsv and links.tsv, its HDF5 records.

    python -m data_prep import --putative EnhancerPredictionsAllPutative.txt.gz \\
        --gene-list GeneList.txt --enhancer-list EnhancerList.txt \\
        --mrna-features mRNA_halflife_features.csv --label rna expression.csv Actual_K562 none \\
        --out imported
    python -m data_prep import --h5 K562_enhancer_promoter_encoding.h5 --genes imported/genes.tsv \\
        --out imported_records
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.annotation import strip_version
from data_prep.genes import LabelRequest, add_labels
from data_prep.import_hdf5 import import_hdf5
from data_prep.mrna_features import MISSING_FLAG, read_features
from data_prep.outputs import report_dropped, versions, write_dropped, write_json
from data_prep.text_input import Table, read_table
from epinformer_jax.data import tables
from epinformer_jax.data.atomic import MARKER, atomic_directory

DESCRIPTION = """\
Read the data of the original project.

  --putative, --gene-list   tables of its ABC step -> OUT/genes.tsv, OUT/links.tsv.gz (for build)
  --h5, --genes             its encoded HDF5 (all three layouts) -> OUT/genes (TFRECORDs)

With --enhancer-list activity is sqrt(DNase RPM x H3K27ac RPM), not quantile-normalised, which is
what the published models know; without it activity_base is taken as it is."""
MAX_DISTANCE_BP = 100_000
_GENE_COLUMNS = ("chr", "tss", "strand")
_PUTATIVE_COLUMNS = ("chr", "start", "end", "TargetGene", "TargetGeneTSS", "activity_base")
_GENE_IDS = ("Ensembl_ID", "ENSID", "name", "symbol")
_RPM = ("DHS.RPM", "H3K27ac.RPM")


def read_gene_list(path: str) -> pd.DataFrame:
    """Reads GeneList.txt: gene_id, gene_name, chrom, tss, strand and the promoter signals.

    Ensembl versions are taken off; promoter_activity = sqrt(DNase RPM x H3K27ac RPM) over the TSS
    window, DNase alone without H3K27ac.

    Raises:
      ValueError: a column is missing, a value is wrong, or a gene stands twice.
    """
    table = read_table(path, required=_GENE_COLUMNS)
    column = _id_column(table)
    names = table.text("symbol") if table.has("symbol") else table.text(column)
    dnase = table.numbers("DHS.RPM.TSS1Kb", minimum=0)
    genes = pd.DataFrame(
        {
            "gene_id": table.text(column).map(strip_version),
            "gene_name": names,
            "chrom": table.text("chr"),
            "tss": table.integers("tss", minimum=0),
            "strand": table.text("strand"),
        }
    )
    activity = dnase
    if table.has("H3K27ac.RPM.TSS1Kb"):
        h3k27ac = table.numbers("H3K27ac.RPM.TSS1Kb", minimum=0)
        activity = np.sqrt(dnase * h3k27ac)
        genes["promoter_h3k27ac"] = h3k27ac
    genes["promoter_activity"], genes["promoter_dnase"] = activity, dnase
    for row in np.flatnonzero(genes["gene_id"].duplicated().to_numpy())[:1]:
        raise ValueError(
            f"{table.where(row)}: gene {genes['gene_id'].iloc[row]} stands twice; keep one row"
        )
    return genes


def read_putative(
    path: str,
    genes: pd.DataFrame,
    *,
    elements: pd.DataFrame | None = None,
    max_distance_bp: int = MAX_DISTANCE_BP,
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Reads EnhancerPredictionsAllPutative as links of these genes.

    TargetGene may be an id or a symbol. Contact is hic_contact, else powerlaw_contact; a missing
    one stays missing (build counts it and takes 0). `elements` (name, dnase, h3k27ac, activity)
    replace activity_base.

    Returns:
      links, what was left out with a `reason`, and notes on what was taken.

    Raises:
      ValueError: a column is missing, a value is wrong, a distance or TSS that does not agree, a
        pair twice, or an element that is not in the list.
    """
    table = read_table(path, required=_PUTATIVE_COLUMNS)
    start, end = table.integers("start", minimum=0), table.integers("end", minimum=1)
    target = table.text("TargetGene").map(strip_version)
    ids = set(genes["gene_id"])
    by_symbol = dict(zip(genes["gene_name"], genes["gene_id"], strict=True))
    gene_id = target.map(lambda name: name if name in ids else by_symbol.get(name, ""))
    contact_column = "hic_contact" if _has_values(table, "hic_contact") else "powerlaw_contact"
    links = pd.DataFrame(
        {
            "gene_id": gene_id,
            "chrom": table.text("chr"),
            "start": start,
            "end": end,
            "distance": (start + end) // 2 - table.integers("TargetGeneTSS", minimum=0),
            "activity": table.numbers("activity_base", minimum=0),
            "contact": table.numbers(contact_column, minimum=0, allow_missing=True),
        }
    )
    _check_places(table, links, genes)
    notes = [f"contact: {contact_column}", "activity: activity_base of the table"]
    if elements is not None:
        links = _with_element_signals(links, table, elements)
        notes[1] = "activity: sqrt(DNase RPM x H3K27ac RPM) of the enhancer list"
    if table.has("ABC.Score"):
        links["abc_score"] = table.numbers("ABC.Score", minimum=0)
    if table.has("isSelfPromoter"):
        links["is_self_promoter"] = _flags(table)
    unknown = (gene_id == "").to_numpy()
    far = ~unknown & (links["distance"].abs() > max_distance_bp).to_numpy()
    dropped = pd.concat(
        [
            links[unknown].assign(gene_id=target[unknown], reason="gene is not in the gene list"),
            links[far].assign(reason=f"farther than {max_distance_bp:,} bp"),
        ]
    )
    kept = links[~(unknown | far)].reset_index(drop=True)
    return kept, dropped[["gene_id", "chrom", "start", "end", "distance", "reason"]], notes


def read_enhancer_list(path: str) -> pd.DataFrame:
    """Reads EnhancerList.txt: name, dnase, h3k27ac (where it is there) and activity.

    Raises:
      ValueError: a column is missing, a value is wrong, or an element stands twice.
    """
    table = read_table(path, required=["name", _RPM[0]])
    elements = pd.DataFrame(
        {"name": table.text("name"), "dnase": table.numbers(_RPM[0], minimum=0)}
    )
    elements["activity"] = elements["dnase"]
    if table.has(_RPM[1]):
        elements["h3k27ac"] = table.numbers(_RPM[1], minimum=0)
        elements["activity"] = np.sqrt(elements["dnase"] * elements["h3k27ac"])
    for row in np.flatnonzero(elements["name"].duplicated().to_numpy())[:1]:
        raise ValueError(f"{table.where(row)}: element {elements['name'].iloc[row]} stands twice")
    return elements


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep import`."""
    add = parser.add_argument_group("ABC tables").add_argument
    add("--putative", help="EnhancerPredictionsAllPutative table, plain or gzip")
    add("--gene-list", help="GeneList.txt")
    add("--enhancer-list", help="EnhancerList.txt: RPM, for the activity the models know")
    add("--mrna-features", help="table of the eight features, keyed by gene_id")
    add(
        "--label",
        nargs=4,
        action="append",
        default=[],
        metavar=("NAME", "TABLE", "COLUMN", "TRANSFORM"),
        help="as for genes; none for labels that are transformed already; may be repeated",
    )
    add("--keep-unlabelled", action="store_true", help="keep genes without a label")
    add("--max-distance", type=int, default=MAX_DISTANCE_BP, help="bp (default: %(default)s)")
    add = parser.add_argument_group("encoded data").add_argument
    add("--h5", help="HDF5 of the original: any of its layouts")
    add("--genes", help="genes.tsv for --h5: place, mRNA features, promoter activity, labels")
    parser.add_argument("--out", required=True, metavar="DIR", help="output directory")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier output")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 0.

    Raises:
      ValueError: an input is missing or malformed.
    """
    if bool(args.h5) == bool(args.putative):
        raise ValueError("give either --putative (with --gene-list) or --h5 (with --genes)")
    if args.h5:
        if not args.genes:
            raise ValueError("--h5 needs --genes, which says where genes lie and what they show")
        manifest, dropped = import_hdf5(args.h5, args.genes, args.out, overwrite=args.overwrite)
        print(f"{manifest.counts['genes']:,} genes, {manifest.counts['elements']:,} elements")
        for reason, count in dropped.items():
            print(f"left out {count:,}: {reason}")
        print(args.out)
        return 0
    if not args.gene_list or not args.mrna_features:
        raise ValueError("--putative needs --gene-list and --mrna-features")
    with atomic_directory(args.out, overwrite=args.overwrite) as folder:
        _import_tables(args, folder)
    print(args.out)
    return 0


def _import_tables(args: argparse.Namespace, folder: Path) -> None:
    genes = read_gene_list(args.gene_list)
    requests = [LabelRequest(*label) for label in args.label]
    labelled = add_labels(genes, requests, keep_unlabelled=args.keep_unlabelled)
    elements = read_enhancer_list(args.enhancer_list) if args.enhancer_list else None
    links, dropped, notes = read_putative(
        args.putative, labelled.genes, elements=elements, max_distance_bp=args.max_distance
    )
    features = read_features(args.mrna_features, labelled.genes["gene_id"])
    table = pd.concat([labelled.genes, features], axis=1)
    tables.write_table(table, folder / "genes.tsv", float_format="%.9g")
    tables.write_table(links, folder / "links.tsv.gz", float_format="%.9g")
    names = [request.name for request in requests]
    checked = tables.read_genes(
        folder / "genes.tsv", labels=names, allow_missing_labels=args.keep_unlabelled
    )
    tables.read_links(folder / "links.tsv.gz", checked)
    reasons = write_dropped([dropped, labelled.dropped], folder / "import.tsv")
    missing = int(table[MISSING_FLAG].sum()) if MISSING_FLAG in table else 0
    values = {
        "kind": "import",
        "genes": len(table),
        "links": len(links),
        "notes": notes,
        "labels": {name: one.to_dict() for name, one in labelled.transforms.items()},
        "genes_without_mrna_features": missing,
        "left_out": reasons,
        "versions": versions("numpy", "pandas"),
    }
    write_json(values, folder / MARKER)
    print(f"{len(table):,} genes ({missing:,} without mRNA features), {len(links):,} links")
    for note in notes:
        print(note)
    report_dropped(reasons, Path(args.out) / "import.tsv")


def _id_column(table: Table) -> str:
    """The first column of gene ids: Ensembl ids where a column holds them."""
    present = [name for name in _GENE_IDS if table.has(name)]
    if not present:
        raise ValueError(f"{table.path}: no column of gene ids; expected {', '.join(_GENE_IDS)}")
    for name in present:
        if table.text(name, allow_missing=True).str.startswith("ENS").mean() > 0.5:
            return name
    return present[0]


def _check_places(table: Table, links: pd.DataFrame, genes: pd.DataFrame) -> None:
    wrong = links["end"].to_numpy() <= links["start"].to_numpy()
    for row in np.flatnonzero(wrong)[:1]:
        raise ValueError(f"{table.where(row)}: end is not after start; BED is 0-based, half-open")
    place: Mapping[str, int] = dict(zip(genes["gene_id"], genes["tss"], strict=True))
    stated = table.integers("TargetGeneTSS", minimum=0)
    known = links["gene_id"].map(place)
    off = known.notna().to_numpy() & (np.abs(known.fillna(0).to_numpy() - stated) > 0)
    for row in np.flatnonzero(off)[:1]:
        raise ValueError(
            f"{table.where(row)}: TargetGeneTSS is {stated[row]}, in the gene list the TSS of "
            f"{links['gene_id'].iloc[row]} is {known.iloc[row]:.0f}; use tables of one run"
        )
    if table.has("distance"):
        given = np.abs(table.numbers("distance"))
        off = np.abs(given - links["distance"].abs().to_numpy()) > 1
        for row in np.flatnonzero(off)[:1]:
            raise ValueError(
                f"{table.where(row)}: distance is {given[row]:.0f}, but middle minus TSS is "
                f"{links['distance'].iloc[row]}"
            )


def _with_element_signals(
    links: pd.DataFrame, table: Table, elements: pd.DataFrame
) -> pd.DataFrame:
    index = pd.Index(elements["name"]).get_indexer(table.text("name"))
    for row in np.flatnonzero(index < 0)[:1]:
        raise ValueError(
            f"{table.where(row)}: element {table.text('name').iloc[row]} is not in the enhancer "
            "list; use tables of one run"
        )
    columns = [name for name in ("activity", "dnase", "h3k27ac") if name in elements]
    return links.assign(**{name: elements[name].to_numpy()[index] for name in columns})


def _has_values(table: Table, column: str) -> bool:
    if not table.has(column):
        return False
    return bool(np.isfinite(table.numbers(column, allow_missing=True)).any())


def _flags(table: Table) -> pd.Series:
    texts = table.text("isSelfPromoter").str.lower()
    values = texts.map({"true": True, "false": False, "1": True, "0": False})
    for row in np.flatnonzero(values.isna().to_numpy())[:1]:
        raise ValueError(
            f"{table.where(row)}: isSelfPromoter is {texts.iloc[row]!r}; expected True or False"
        )
    return values.astype(bool)
