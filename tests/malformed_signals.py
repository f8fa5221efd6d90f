"""Bad reads, tracks, counts and contacts: what the file holds, who reads it, the whole message."""

import pandas as pd
from malformed_case import REGIONS, Case

from data_prep import contact
from data_prep.contact_text import TextContacts
from data_prep.power_law import PowerLaw
from data_prep.quantile import read_quantile_reference
from data_prep.reads import ReadFilter, read_barcodes
from data_prep.signal_files import CountingOptions, detect_format, measure
from data_prep.signals import Signal, measure_signals, with_quantiles


def counted(file_format=None, **options):
    """Counts a signal file over one region."""
    return lambda path: measure(path, REGIONS, CountingOptions(file_format=file_format, **options))


def contacts(path):
    """Reads a text contact file at 5 kb."""
    return TextContacts(path, resolution_bp=5000).read("chr1", chrom="chr1", max_distance_bp=10**6)


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
