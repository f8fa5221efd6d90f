"""Bad intervals, peaks and contig names: what the file holds, who reads it, the whole message."""

from malformed_case import REGIONS, Case

from data_prep import candidates, peaks
from data_prep.contig_names import match_contigs, read_aliases, read_contig_lengths
from data_prep.intervals import read_bed, read_regions
from data_prep.text_input import read_table

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
