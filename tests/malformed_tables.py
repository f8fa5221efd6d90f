"""Bad genes, links and prepared tables: what the file holds, who reads it, the whole message."""

import numpy as np
import pandas as pd
from malformed_case import REGIONS, Case

from data_prep import abc_scores, contact, genes, links, windows
from data_prep.annotation import read_annotation
from data_prep.expression import fit_transform, read_expression
from data_prep.link_rules import LinkRule
from data_prep.mrna_features import features_from_gtf, read_features
from epinformer_jax.data import tables

MRNA = "\t".join(tables.MRNA_FEATURES)
GENE_HEADER = f"gene_id\tchrom\ttss\tstrand\t{MRNA}\tpromoter_activity\n"
EIGHT = "\t".join("0" for _ in tables.MRNA_FEATURES)
LINK_HEADER = "gene_id\tchrom\tstart\tend\tactivity\tcontact\n"

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
