"""Bad inputs: one clear line that says where, what was found, what was expected, what to do.

One table: what the file holds, who reads it, and the whole message. `{path}` is the file.
"""

import gzip
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from data_prep import abc_scores, candidates, contact, genes, links, peaks, windows
from data_prep.annotation import read_annotation
from data_prep.contact_matrices import CoolFile, HicFile
from data_prep.contact_text import TextContacts
from data_prep.contig_names import match_contigs, read_aliases, read_contig_lengths
from data_prep.expression import fit_transform, read_expression
from data_prep.intervals import read_bed, read_regions
from data_prep.link_rules import LinkRule
from data_prep.mrna_features import features_from_gtf, read_features
from data_prep.power_law import PowerLaw
from data_prep.quantile import read_quantile_reference
from data_prep.reads import ReadFilter, read_barcodes
from data_prep.signal_files import CountingOptions, detect_format, measure
from data_prep.signals import Signal, measure_signals, with_quantiles
from data_prep.text_input import read_table
from epinformer_jax.data import tables

REGIONS = pd.DataFrame({"chrom": ["chr1"], "start": [0], "end": [100]})
MRNA = "\t".join(tables.MRNA_FEATURES)
GENE_HEADER = f"gene_id\tchrom\ttss\tstrand\t{MRNA}\tpromoter_activity\n"
EIGHT = "\t".join("0" for _ in tables.MRNA_FEATURES)
LINK_HEADER = "gene_id\tchrom\tstart\tend\tactivity\tcontact\n"


class Case(NamedTuple):
    """What is wrong, the file's name and content, who reads it, and the message."""

    what: str
    file: str
    content: str | bytes
    read: Callable[[Any], Any]
    message: str


def counted(file_format=None, **options):
    """Counts a signal file over one region."""
    return lambda path: measure(path, REGIONS, CountingOptions(file_format=file_format, **options))


def contacts(path):
    """Reads a text contact file at 5 kb."""
    return TextContacts(path, resolution_bp=5000).read("chr1", chrom="chr1", max_distance_bp=10**6)


BED = [
    Case(
        "two fields",
        "a.bed",
        "chr1\t5\t9\nchr1\t7\n",
        read_bed,
        "{path}:2: 2 fields; expected at least 3, separated by tabs",
    ),
    Case(
        "text for a start",
        "a.bed",
        "chr1\t5\t9\nchr1\tx\t9\n",
        read_bed,
        "{path}:2: start is 'x'; expected a whole number",
    ),
    Case(
        "a float for an end",
        "a.bed",
        "chr1\t5\t9.0\n",
        read_bed,
        "{path}:1: end is '9.0'; expected a whole number",
    ),
    Case(
        "an endless coordinate",
        "a.bed",
        f"chr1\t5\t{'9' * 30}\n",
        read_bed,
        "{path}:1: end is '999999999999999999999999999999'; expected a whole number",
    ),
    Case(
        "a negative start",
        "a.bed",
        "# comment\nchr1\t-5\t9\n",
        read_bed,
        "{path}:2: start -5 is negative; BED is 0-based, half-open",
    ),
    Case(
        "an end before its start",
        "a.bed",
        "track name=x\n\nchr1\t9\t9\n",
        read_bed,
        "{path}:3: end 9 is not after start 9; BED is 0-based, half-open",
    ),
    Case("only comments", "a.bed", "# a\n# b\n", read_bed, "{path}: holds no intervals"),
    Case(
        "an empty file",
        "a.bed",
        "",
        read_bed,
        "{path}: is empty; was a step before this one cut short?",
    ),
    Case(
        "regions with a missing end",
        "a.tsv",
        "chrom\tstart\tend\tx\nchr1\t1\t\t2\n",
        read_regions,
        "{path}:2: end is missing; expected a value in every row",
    ),
    Case(
        "regions with a short row",
        "a.tsv",
        "chrom\tstart\tend\nchr1\t1\n",
        read_regions,
        "{path}:2: 2 fields; expected 3 as in the header",
    ),
    Case(
        "a column twice",
        "a.tsv",
        "chrom\tstart\tend\tstart\nchr1\t1\t2\t3\n",
        read_regions,
        "{path}: column 'start' stands twice in the header; rename one",
    ),
    Case(
        "no header",
        "a.tsv",
        "1\t2\t3\n",
        read_table,
        "{path}: has no header line; the first line should name the columns",
    ),
    Case(
        "nothing but comments",
        "a.tsv",
        "# x\n",
        read_table,
        "{path}: holds no table; expected a header line and rows",
    ),
]

PEAKS = [
    Case(
        "a narrowPeak without summits",
        "a.narrowPeak",
        "chr1\t1\t9\n",
        lambda path: peaks.read_peaks(path, peak_format="narrowPeak"),
        "{path}:1: 3 columns; narrowPeak has 10 (give --peak-format bed for peaks without summits)",
    ),
    Case(
        "a signal that is text",
        "a.narrowPeak",
        "chr1\t1\t9\tp\t0\t.\thigh\t1\t1\t3\n",
        peaks.read_peaks,
        "{path}:1: signalValue (column 7) is 'high'; expected a number",
    ),
    Case(
        "a summit outside its peak",
        "a.narrowPeak",
        "chr1\t1\t9\tp\t0\t.\t5\t1\t1\t8\n",
        peaks.read_peaks,
        "{path}:1: summit offset 8 lies outside the peak of 8 bp; expected 0 to 7, or -1 for none",
    ),
    Case(
        "peaks that cannot be ranked",
        "a.bed",
        "chr1\t1\t9\nchr1\t20\t30\n",
        lambda path: peaks.strongest_summits(peaks.read_peaks(path), number=1, source=str(path)),
        "{path}:1: has no number to rank peaks by, and 1 of 2 should be kept; give a narrowPeak "
        "file or BED scores, or keep all with --peaks-kept 0",
    ),
    Case(
        "everything in the blacklist",
        "a.bed",
        "chr1\t1\t9\n",
        lambda path: candidates.candidate_elements(
            peaks.read_peaks(path),
            {"chr1": 100},
            blacklist=REGIONS,
            source=str(path),
        ),
        "{path}: no element is left of 1 summits; check blacklist and contigs",
    ),
]

CONTIGS = [
    Case(
        "a contig without length",
        "sizes",
        "chr1\t5\nchr2\n",
        read_contig_lengths,
        "{path}:2: 1 field; expected a contig name and its length",
    ),
    Case(
        "a contig of length 0",
        "sizes",
        "chr1\t0\n",
        read_contig_lengths,
        "{path}:1: length of chr1 is 0; expected a positive number of bp",
    ),
    Case(
        "a contig twice",
        "sizes",
        "chr1\t5\nchr1\t6\n",
        read_contig_lengths,
        "{path}:2: contig chr1 stands twice; expected each name once",
    ),
    Case(
        "an alias of three fields",
        "aliases",
        "a\tb\tc\n",
        read_aliases,
        "{path}:1: 3 fields; expected 2: the name in the data, the name in the genome",
    ),
    Case(
        "another assembly",
        "a.bam",
        "x",
        lambda path: match_contigs({"1": 249_250_621}, {"chr1": 248_956_422}, source=str(path)),
        "{path}: contig 1 has 249,250,621 bp, but chr1 of the genome has 248,956,422 bp; this is "
        "another assembly: use files of one assembly, or lift this one over",
    ),
    Case(
        "no name in common",
        "a.bed",
        "x",
        lambda path: match_contigs({"scaffold_1": None}, {"chr1": 5}, source=str(path)),
        "{path}: no contig name in common with the genome (found scaffold_1; expected chr1); give "
        "--aliases with lines of found<TAB>expected",
    ),
    Case(
        "two names for one contig",
        "a.bam",
        "x",
        lambda path: match_contigs({"1": None, "chr1": None}, {"chr1": 5}, source=str(path)),
        "{path}: contigs 1 and chr1 both stand for chr1; settle it with --aliases",
    ),
]

SIGNALS = [
    Case(
        "a tagAlign line that ends before it starts",
        "a.tagAlign",
        "chr1\t5\t9\tN\t0\t+\nchr1\t9\t5\tN\t0\t+\n",
        counted(),
        "{path}:2: end 5 is not after start 9; BED is 0-based, half-open",
    ),
    Case(
        "a tagAlign line with text for a number",
        "a.tagAlign",
        "chr1\t5\t9\tN\t0\t+\nchr1\tnine\t15\tN\t0\t+\n",
        counted(),
        "{path}:2: start is 'nine'; expected a whole number",
    ),
    Case(
        "a tagAlign strand",
        "a.tagAlign",
        "chr1\t5\t9\tN\t0\t.\n",
        counted(read_filter=ReadFilter(strand="+")),
        "{path}:1: strand is '.'; expected + or -",
    ),
    Case(
        "fragments of a tagAlign",
        "a.tagAlign",
        "chr1\t5\t9\tN\t0\t+\n",
        counted(read_filter=ReadFilter(unit="fragments")),
        "{path}: tagAlign holds single reads, not fragments; use --paired reads",
    ),
    Case(
        "fragments without the cells asked for",
        "a.fragments.tsv",
        "chr1\t5\t9\tAAA-1\t1\n",
        counted(barcodes=frozenset({"AAA"})),
        "{path}: none of 1 fragments carries one of the 1 barcodes; compare their spelling (a "
        "suffix -1, say)",
    ),
    Case(
        "a barcode in two clusters",
        "cells.tsv",
        "AAA\tx\nAAA\ty\n",
        read_barcodes,
        "{path}:2: barcode AAA stands twice; a cell has one cluster",
    ),
    Case(
        "an unknown cluster",
        "cells.tsv",
        "AAA\tx\nCCC\ty\n",
        lambda path: read_barcodes(path, cluster="z"),
        "{path}: no barcode belongs to cluster 'z'; clusters there: x, y",
    ),
    Case(
        "a track without units",
        "a.bedgraph",
        "chr1\t5\t9\t1\n",
        counted(),
        "{path}: a bedgraph does not say what its values are; declare --track-units "
        "cuts|coverage|fold-change, or give counts of each region as a column of the regions' "
        "table, column:NAME",
    ),
    Case(
        "a bedGraph out of order",
        "a.bedgraph",
        "chr1\t5\t9\t1\nchr1\t8\t12\t1\n",
        counted(track_units="cuts"),
        "{path}:2: start 8 lies before 9, where the interval above ends; sort by contig and start, "
        "without overlaps",
    ),
    Case(
        "a bedGraph contig in two places",
        "a.bedgraph",
        "chr1\t5\t9\t1\nchr2\t8\t12\t1\nchr1\t20\t22\t1\n",
        counted(track_units="cuts"),
        "{path}:3: chr1 appears again after another contig; sort by contig and start",
    ),
    Case(
        "a bedGraph value that is text",
        "a.bedgraph",
        "chr1\t5\t9\tNA\n",
        counted(track_units="cuts"),
        "{path}:1: value is 'NA'; expected a number",
    ),
    Case(
        "a track below 0",
        "a.bedgraph",
        "chr1\t5\t9\t-2\n",
        counted(track_units="coverage"),
        "{path}: value -2 at chr1:6 is negative; expected counts, coverage or fold change, not a "
        "log scale",
    ),
    Case(
        "a track on other contigs",
        "a.bedgraph",
        "scaffold\t5\t9\t2\n",
        counted(track_units="coverage"),
        "{path}: no contig name in common with the genome (found scaffold; expected chr1); give "
        "--aliases with lines of found<TAB>expected",
    ),
    Case(
        "a format that cannot be told",
        "a.txt",
        "hello world\n",
        detect_format,
        "{path}: its format cannot be told from name or content; give --format (bam, cram, "
        "tagalign, fragments, bigwig, bedgraph)",
    ),
    Case(
        "a CRAM without its genome",
        "a.cram",
        "CRAM",
        counted(),
        "{path}: a CRAM file is read with its genome; give --fasta",
    ),
    Case(
        "ready counts without a total",
        "a",
        "x",
        lambda path: measure_signals(
            REGIONS.assign(n=5), [Signal("dnase", ("column:n",))], CountingOptions()
        ),
        "signal dnase: counts of column 'n' need the reads behind them; give --total dnase=NUMBER",
    ),
    Case(
        "a count column that is not there",
        "a",
        "x",
        lambda path: measure_signals(
            REGIONS, [Signal("dnase", ("column:n",), (1e6,))], CountingOptions()
        ),
        "signal dnase: the region table has no column 'n'; it has chrom, start, end",
    ),
    Case(
        "a negative count",
        "a",
        "x",
        lambda path: measure_signals(
            REGIONS.assign(n=-1), [Signal("dnase", ("column:n",), (1e6,))], CountingOptions()
        ),
        "signal dnase: row 1 of column 'n' is -1; expected a count of at least 0",
    ),
    Case(
        "totals for other files",
        "a",
        "x",
        lambda path: Signal("dnase", ("a", "b"), (1e6,)),
        "signal dnase: 1 totals for 2 files; give one for each, in order",
    ),
    Case(
        "a quantile reference without a class",
        "ref.txt",
        "enh_class\trank\tDHS.RPM\tH3K27ac.RPM\nany\t1\t2\t3\nany\t2\t1\t1\n",
        read_quantile_reference,
        "{path}: 0 rows of class 'promoter'; expected at least 2 (classes: any, promoter, "
        "nonpromoter)",
    ),
    Case(
        "quantiles by rank without classes",
        "a",
        "x",
        lambda path: with_quantiles(pd.DataFrame({"dnase_rpm": [1.0]}), None, form="rank"),
        "quantile form 'rank' treats promoters apart and needs a class column; make the elements "
        "with --genes, or use --quantile-form position",
    ),
]

CONTACTS = [
    Case(
        "contacts of five columns",
        "a.txt",
        "1 2 3 4 5\n",
        contacts,
        "{path}:1: 5 columns; expected 3 (x1 x2 contact), 4 (chrom x1 x2 contact) or bedpe with 7 "
        "or 8",
    ),
    Case(
        "a contact that is text",
        "a.txt",
        "0\t5000\t1\n0\t5000\tmany\n",
        contacts,
        "{path}:2: contact is 'many'; expected a number",
    ),
    Case(
        "a negative contact",
        "a.txt",
        "0\t5000\t-1\n",
        contacts,
        "{path}:1: '0\\t5000\\t-1' holds a negative number",
    ),
    Case(
        "contacts at another resolution",
        "a.txt",
        "0\t2500\t1\n",
        contacts,
        "{path}: contact 1 lies at 0 and 2500, no multiples of the 5000 bp resolution; give "
        "--contact-resolution",
    ),
    Case(
        "contacts that are not there",
        "a.txt",
        "x",
        lambda path: contact.open_contacts(f"{path}.gone", resolution_bp=5000),
        "{path}.gone: no such file or folder of contacts",
    ),
    Case(
        "a power law that grows",
        "a",
        "x",
        lambda path: PowerLaw(gamma=-1.0, scale=5.0),
        "power law with gamma=-1.0, min_distance_bp=5000.0; expected gamma above 0 and a distance "
        "of at least 0",
    ),
]

GENES = [
    Case(
        "a gene BED of five columns",
        "genes.bed",
        "chr1\t1\t9\tA\t0\n",
        read_annotation,
        "{path}:1: 5 fields, so this seems to be a BED of places without strand (peaks or "
        "elements); genes come as a BED of 6 columns or more (chrom, start, end, name, score, "
        "strand), as a GTF, or as a table whose header has gene_id, chrom, tss and strand",
    ),
    Case(
        "contig lengths in place of genes",
        "chrom.sizes",
        "chr1\t1000\n",
        read_annotation,
        "{path}:1: 2 fields, so this seems to be contig lengths; genes come as a BED of 6 columns "
        "or more (chrom, start, end, name, score, strand), as a GTF, or as a table whose header "
        "has gene_id, chrom, tss and strand",
    ),
    Case(
        "a table of links in place of genes",
        "links.tsv",
        "gene_id\tchrom\tstart\nA\tchr1\t5\n",
        read_annotation,
        "{path}:1: 3 fields, so this seems to be a table of columns gene_id, chrom, start; genes "
        "come as a BED of 6 columns or more (chrom, start, end, name, score, strand), as a GTF, or "
        "as a table whose header has gene_id, chrom, tss and strand",
    ),
    Case(
        "a strand",
        "genes.bed",
        "chr1\t1\t9\tA\t0\t*\n",
        read_annotation,
        "{path}:1: strand is '*'; expected + or -",
    ),
    Case(
        "a gene twice",
        "genes.bed",
        "chr1\t1\t9\tA\t0\t+\nchr1\t20\t29\tB\t0\t+\nchr2\t1\t9\tA\t0\t+\n",
        read_annotation,
        "{path}:3: gene A stands twice (first in line 1); keep one row a gene",
    ),
    Case(
        "GFF3 in place of GTF",
        "genes.gff3",
        "chr1\tx\tgene\t1\t9\t.\t+\t.\tID=gene1;Name=A\n",
        read_annotation,
        '{path}:1: no gene_id "..." among the attributes; expected GTF, not GFF3',
    ),
    Case(
        "a GTF interval",
        "genes.gtf",
        'chr1\tx\tgene\t0\t9\t.\t+\t.\tgene_id "A";\n',
        read_annotation,
        "{path}:1: 0-9 is no interval; GTF is 1-based with closed ends",
    ),
    Case(
        "a GTF without genes",
        "genes.gtf",
        'chr1\tx\texon\t1\t9\t.\t+\t.\tgene_id "A";\n',
        read_annotation,
        "{path}: has no line whose feature is gene; give a GTF of GENCODE or Ensembl, or a BED",
    ),
    Case(
        "a GTF without coding sequence",
        "genes.gtf",
        'chr1\tx\texon\t1\t9\t.\t+\t.\tgene_id "A"; transcript_id "T";\n',
        lambda path: features_from_gtf(path, None, ["A"], {}),
        "{path}: no CDS line belongs to one of 1 genes; give a full GTF",
    ),
    Case(
        "mRNA features without a column",
        "mrna.csv",
        "gene_id,UTR5GC\nA,1\n",
        lambda path: read_features(path, ["A"]),
        "{path}: no column 'UTR5LEN_log10zscore' in the header; known names: gene_id, UTR5GC",
    ),
    Case(
        "an expression column that is not there",
        "rpkm.tsv",
        "gene_id\tE116\tE128\nA\t1\t2\n",
        lambda path: read_expression(path, "E117"),
        "{path}: no column 'E117' in the header; did you mean 'E116'?",
    ),
    Case(
        "expression that is text",
        "rpkm.tsv",
        "gene_id\tE116\nA\t1\nB\thigh\n",
        lambda path: read_expression(path, "E116"),
        "{path}:3: E116 is 'high'; expected a number",
    ),
    Case(
        "an expressed gene twice",
        "rpkm.tsv",
        "gene_id\tx\nENSG01.1\t1\nENSG02\t1\nENSG01.2\t1\n",
        lambda path: read_expression(path, "x"),
        "{path}:4: gene ENSG01 stands twice; keep one row a gene",
    ),
    Case(
        "an expression row with too many fields",
        "rpkm.tsv",
        "gene_id\tx\t\nA\t1\t\nB\t1\t2\t3\n",
        lambda path: read_expression(path, "x"),
        "{path}:3: 4 fields; expected 2 as in the header",
    ),
    Case(
        "negative expression",
        "a",
        "x",
        lambda path: fit_transform("log10p1", np.array([1.0, -2.0])),
        "transform log10p1: a value is -2; expression before the logarithm is at least 0 (use "
        "transform none for values that are logarithms already)",
    ),
    Case(
        "expression that never changes",
        "a",
        "x",
        lambda path: fit_transform("z-log10", np.array([3.0, 3.0])),
        "transform z-log10: all 2 values are 3; no z-score",
    ),
    Case(
        "labels of other genes",
        "rpkm.tsv",
        "gene_id\tx\nNM_1\t1\n",
        lambda path: genes.add_labels(
            pd.DataFrame({"gene_id": ["ENSG01"]}),
            [genes.LabelRequest("rna", str(path), "x", "none")],
        ),
        "{path}: none of 1 genes has a value in column 'x'; are the gene ids alike (genes: "
        "ENSG01)?",
    ),
    Case(
        "promoter signals without a gene",
        "signals.tsv",
        "gene_id\tactivity\nA\t1\n",
        lambda path: genes.read_promoter_signals(path, ["A", "B", "C"]),
        "{path}: 2 genes are not there (the first is B); measure all genes",
    ),
]

LINKS = [
    Case(
        "elements without activity",
        "a",
        "x",
        lambda path: links.link(
            REGIONS,
            pd.DataFrame({"gene_id": ["A"], "chrom": ["chr1"], "tss": [5]}),
            contact.ContactSource(),
            rule=LinkRule(),
        ),
        "the element table has no column 'activity'; run `python -m data_prep signals` on it first",
    ),
    Case(
        "an element without a number for activity",
        "a",
        "x",
        lambda path: links.link(
            REGIONS.assign(activity=np.nan),
            pd.DataFrame({"gene_id": ["A"], "chrom": ["chr1"], "tss": [5]}),
            contact.ContactSource(),
            rule=LinkRule(),
        ),
        "element chr1:1-100: activity is nan; expected a number of at least 0",
    ),
    Case(
        "an element twice",
        "a",
        "x",
        lambda path: links.link(
            pd.concat([REGIONS, REGIONS]).assign(activity=1.0),
            pd.DataFrame({"gene_id": ["A"], "chrom": ["chr1"], "tss": [5]}),
            contact.ContactSource(),
            rule=LinkRule(),
        ),
        "element chr1:1-100 stands twice in the table; keep one row",
    ),
    Case(
        "genes and elements under other names",
        "a",
        "x",
        lambda path: links.link(
            REGIONS.assign(activity=1.0),
            pd.DataFrame({"gene_id": ["A"], "chrom": ["1"], "tss": [5]}),
            contact.ContactSource(),
            rule=LinkRule(),
        ),
        "no gene lies on a chromosome with elements: genes on 1, elements on chr1; bring the "
        "contig names together first",
    ),
    Case(
        "an ABC threshold for other inputs",
        "a",
        "x",
        lambda path: abc_scores.threshold("FAIRE", has_h3k27ac=True, contact_kind="hic"),
        "no ABC threshold for 'FAIRE' with contact 'hic'; expected DNase or ATAC and one of hic, "
        "average, powerlaw",
    ),
    Case(
        "an even number of windows",
        "a",
        "x",
        lambda path: windows.WindowLayout(4, 192),
        "4 windows a summit; expected an odd number",
    ),
]

TABLES = [
    Case(
        "a TSS that is text",
        "genes.tsv",
        GENE_HEADER + f"A\tchr1\tfive\t+\t{EIGHT}\t1\n",
        tables.read_genes,
        "{path}:2: tss 'five' is not a number; expected a number",
    ),
    Case(
        "a gene twice in genes.tsv",
        "genes.tsv",
        GENE_HEADER + f"A\tchr1\t5\t+\t{EIGHT}\t1\n" * 2,
        tables.read_genes,
        "{path}:3: gene A stood before, at {path}:2",
    ),
    Case(
        "a negative promoter activity",
        "genes.tsv",
        GENE_HEADER + f"A\tchr1\t5\t+\t{EIGHT}\t-1\n",
        tables.read_genes,
        "{path}:2: promoter_activity '-1' is negative; expected 0 or more, not on a log scale",
    ),
    Case(
        "a link twice",
        "links.tsv",
        LINK_HEADER + "A\tchr1\t5\t9\t1\t1\n" * 2,
        tables.read_links,
        "{path}:3: gene and element A chr1 5 9 stood before, at {path}:2",
    ),
    Case(
        "a link row with a field too many",
        "links.tsv",
        LINK_HEADER + "A\tchr1\t5\t9\t1\t1\t1\n",
        tables.read_links,
        "{path}:2: 7 tab-separated fields, the header has 6",
    ),
    Case(
        "an empty table",
        "genes.tsv",
        "",
        tables.read_genes,
        "{path}: is empty; expected a header line of tab-separated column names",
    ),
]
CASES = [*BED, *PEAKS, *CONTIGS, *SIGNALS, *CONTACTS, *GENES, *LINKS, *TABLES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what.replace(" ", "_"))
def test_a_bad_input_gets_its_message(case, tmp_path):
    path = tmp_path / case.file
    content = case.content.encode() if isinstance(case.content, str) else case.content
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        case.read(path)
    assert str(caught.value) == case.message.format(path=path)
    assert "\n" not in str(caught.value)


def test_the_table_is_long_and_says_each_thing_once():
    assert len(CASES) >= 40
    assert len({case.what for case in CASES}) == len(CASES)


# What a library says about a damaged file differs between versions: only our own words are fixed.
DAMAGED = [
    ("a.bam", b"BAM\x01 but not really", counted(), "cannot be read as BAM or CRAM"),
    ("a.bw", b"nothing of the kind", counted(track_units="cuts"), "cannot be read as bigWig"),
    (
        "a.hic",
        b"HIC but short",
        lambda path: HicFile(path, resolution_bp=5000),
        "cannot be read as .hic",
    ),
    (
        "a.cool",
        b"no HDF5 here",
        lambda path: CoolFile(path, resolution_bp=5000),
        "cannot be read as cooler",
    ),
]


@pytest.mark.parametrize(
    ("name", "content", "read", "words"), DAMAGED, ids=lambda value: str(value)[:8]
)
def test_a_damaged_binary_file_is_named(tmp_path, name, content, read, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: {words}")
    assert str(caught.value).endswith("is it complete?")


def test_a_cut_gzip_stream_is_damaged_not_short(tmp_path):
    path = tmp_path / "a.bed.gz"
    path.write_bytes(gzip.compress(b"chr1\t5\t9\n" * 5000)[:60])
    with pytest.raises(ValueError) as caught:
        read_bed(path)
    assert str(caught.value).startswith(
        f"{path}: the gzip stream is cut off or damaged after line "
    )
    assert str(caught.value).endswith("copy the file again")


def test_a_cut_bam_is_damaged_not_short(shared_data, tmp_path):
    whole = (shared_data / "readers" / "vg_NA12878.chr22.tiny.bam").read_bytes()
    path = tmp_path / "cut.bam"
    region = pd.DataFrame({"chrom": ["q"], "start": [0], "end": [12_356]})
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read as BAM or CRAM .*; is it complete"):
        measure(path, region, CountingOptions())
    end_marker = whole[-28:]
    path.write_bytes(whole[: len(whole) // 2] + end_marker)
    with pytest.raises(ValueError, match="damaged or cut off after .* alignments"):
        measure(path, region, CountingOptions())


@pytest.mark.parametrize(
    ("read", "name"), [(read_bed, "gone.bed"), (counted(), "gone.bam")], ids=["text", "binary"]
)
def test_a_file_that_is_not_there_is_named(tmp_path, read, name):
    with pytest.raises(ValueError) as caught:
        read(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: no such file"
    with pytest.raises(ValueError) as caught:
        read(tmp_path)
    assert str(caught.value) == f"{tmp_path}: is a directory; expected a file"
