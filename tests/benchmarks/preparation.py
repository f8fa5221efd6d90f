"""Measures how fast raw files become records, and says what that makes for a whole genome.

    python -m tests.benchmarks.preparation [--data ../shared/data] [--reads 2000000]

Reads of a BAM and of a tagAlign file counted over K562's candidate elements, K562's elements linked
with 18,377 genes, and two of its chromosomes (random sequence of the true length) built into
TFRECORD shards at K562's occupancy. All on one core. Two to three minutes.
"""

import argparse
import gzip
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import pandas as pd
import pysam

from data_prep import links
from data_prep.abc_scores import ScoreRule
from data_prep.contact import ContactSource
from data_prep.link_rules import LinkRule
from data_prep.signal_files import CountingOptions, measure
from epinformer_jax.data import tables
from epinformer_jax.data.tables import MRNA_FEATURES

DATA = pathlib.Path(__file__).resolve().parents[2].parent / "shared" / "data"
LENGTHS = {"chr21": 46_709_983, "chr22": 50_818_468}
READ_BP = 36
LINE_BP = 60
# One cell type, as deep as the published one: reads that have to be looked at.
GENOME_READS = {"DNase": 200e6, "H3K27ac, two replicates": 80e6}
ALL_REGIONS = 1.1  # one pass for elements, TSS windows and 256 bp windows, against elements alone
CORES, WORKERS = 2, 64
LARGEST_CHROMOSOME = 0.08  # chr1's share of the genome: no worker can have less


def k562_tables(folder: pathlib.Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Candidate elements with activity, and genes with TSS and features."""
    elements = pd.read_csv(folder / "candidate_elements_counts.tsv.gz", sep="\t")
    genes = pd.read_csv(folder / "tss_window_counts.tsv.gz", sep="\t")
    for frame in (elements, genes):
        dnase, h3k27ac = frame["DNase_ENCFF257HEE"] / 100, frame["H3K27ac_ENCFF232RQF"] / 70.7
        frame["activity"] = np.sqrt(dnase * h3k27ac)
    genes["tss"] = (genes["tss_window_start"] + genes["tss_window_end"]) // 2
    genes["promoter_activity"] = genes["activity"]
    features = pd.read_csv(folder / "mrna_halflife_features.csv.gz")
    features = features[["gene_id", *MRNA_FEATURES]]
    return elements, genes.merge(features, on="gene_id", how="left")


def write_reads(folder: pathlib.Path, reads: int, rng: np.random.Generator) -> list[pathlib.Path]:
    """The same reads as BAM and as tagAlign, on two chromosomes, sorted."""
    bam, tags = folder / "reads.bam", folder / "reads.tagAlign.gz"
    names, lengths = list(LENGTHS), list(LENGTHS.values())
    header = pysam.AlignmentHeader.from_references(names, lengths)
    with (
        pysam.AlignmentFile(str(bam), "wb", header=header) as out,
        gzip.open(tags, "wt", 1) as text,
    ):
        for index, name in enumerate(names):
            starts = np.sort(rng.integers(0, lengths[index] - READ_BP, reads // 2))
            for start in starts:
                read = pysam.AlignedSegment(header)
                read.query_name, read.flag, read.mapping_quality = "r", 0, 60
                read.reference_id, read.reference_start = index, int(start)
                read.cigartuples = [(0, READ_BP)]
                read.query_sequence = "A" * READ_BP
                out.write(read)
            text.writelines(f"{name}\t{s}\t{s + READ_BP}\tN\t1000\t+\n" for s in starts)
    return [bam, tags]


def write_genome(path: pathlib.Path, rng: np.random.Generator) -> None:
    """Random chromosomes as a FASTA with its index."""
    letters = np.frombuffer(b"ACGT", np.uint8)
    with open(path, "wb") as out:
        for name, length in LENGTHS.items():
            out.write(f">{name}\n".encode())
            bases = letters[rng.integers(0, 4, length)]
            whole = length // LINE_BP * LINE_BP
            lines = np.full((whole // LINE_BP, LINE_BP + 1), ord("\n"), np.uint8)
            lines[:, :LINE_BP] = bases[:whole].reshape(-1, LINE_BP)
            out.write(lines.tobytes() + bases[whole:].tobytes() + b"\n")
    pysam.faidx(str(path))


def timed(function, *arguments, **options):
    """What the function returns, its wall time and its CPU time in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function(*arguments, **options)
    return result, time.perf_counter() - wall, time.process_time() - cpu


def built_in_a_process(folder: pathlib.Path, compression: str) -> tuple[int, float, float]:
    """Bytes of all shards, wall seconds and peak memory in MB of one `build` command."""
    out = folder / f"records_{compression or 'plain'}"
    command = [sys.executable, "-m", "data_prep", "build", "--fasta", folder / "genome.fa"]
    command += ["--genes", folder / "genes.tsv", "--links", folder / "links.tsv.gz", "--out", out]
    command += ["--compression", compression] if compression else []
    started, peak = time.perf_counter(), 0
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL) as done:
        status = pathlib.Path(f"/proc/{done.pid}/status")
        while done.poll() is None:
            found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
            peak = int(found[1]) if found else peak
            time.sleep(0.02)
    if done.returncode:
        raise ValueError(f"build ended with {done.returncode}")
    size = sum(path.stat().st_size for path in (out / "genes").glob("*tfrecord*"))
    return size, time.perf_counter() - started, peak / 1024


def project(rates: dict[str, float]) -> list[str]:
    """Hours and minutes that a whole genome would take, from the measured rates."""
    counting = sum(GENOME_READS.values()) * ALL_REGIONS / rates["BAM reads/s"]
    building = 18_377 / rates["genes/s"]
    one_core = counting + rates["linking s"] + building
    files = max(GENOME_READS.values()) * ALL_REGIONS / rates["BAM reads/s"]
    cluster = files + rates["linking s"] + max(building / WORKERS, building * LARGEST_CHROMOSOME)
    return [
        f"reads looked at: {sum(GENOME_READS.values()) / 1e6:,.0f} million, once: "
        f"{counting / 60:.1f} core-minutes",
        f"linking {rates['linking s']:.0f} s, building {building / 60:.1f} core-minutes",
        f"one cell type on {CORES} cores (one file a core): about "
        f"{max(one_core / CORES, files) / 60:.0f} minutes",
        f"one cell type on {WORKERS} workers: about {cluster / 60:.0f} minutes; reading the "
        "largest file is one worker's work, and chr1 is one worker's shards",
        f"{WORKERS} cell types on {WORKERS} workers, one each: about {one_core / 60:.0f} minutes",
    ]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, default=DATA)
    parser.add_argument("--reads", type=int, default=2_000_000, help="reads to count")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    rates: dict[str, float] = {}
    elements, genes = k562_tables(args.data / "k562")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        here = elements[elements["chrom"].isin(LENGTHS)].reset_index(drop=True)
        options = CountingOptions()
        counts = []
        for path, kind in zip(
            write_reads(folder, args.reads, rng), ("BAM", "tagAlign"), strict=True
        ):
            measured, _, cpu = timed(measure, str(path), here, options)
            counts.append(measured.values)
            rates[f"{kind} reads/s"] = args.reads / cpu
            print(f"{kind}: {args.reads / cpu / 1e6:.2f} million reads a core-second")
        if not np.array_equal(*counts):
            raise ValueError("counts of the same reads differ between BAM and tagAlign")
        rule, scores = LinkRule(min_distance_bp=1000), ScoreRule(max_distance_bp=100_001)
        linked, wall, _ = timed(
            links.link, elements, genes, ContactSource(), rule=rule, scores=scores
        )
        rates["linking s"] = wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"linking: {wall:.1f} s, peak {peak:,.0f} MB, {len(linked.links):,} links")
        write_genome(folder / "genome.fa", rng)
        chosen = genes[genes["chrom"].isin(LENGTHS)].copy()
        chosen["gene_name"] = chosen["gene_id"]
        columns = ["gene_id", "gene_name", "chrom", "tss", "strand"]
        chosen = chosen[[*columns, *MRNA_FEATURES, "promoter_activity"]].assign(rna=0.5)
        tables.write_table(chosen, folder / "genes.tsv")
        pairs = linked.links[linked.links["gene_id"].isin(chosen["gene_id"])]
        tables.write_table(pairs, folder / "links.tsv.gz")
        for compression in ("", "zlib"):
            size, wall, peak = built_in_a_process(folder, compression)
            if not compression:
                rates["genes/s"] = len(chosen) / wall
            print(
                f"build{' with zlib' if compression else ''}: {len(chosen)} genes, "
                f"{len(pairs) / len(chosen):.1f} links each, in {wall:.1f} s with the start of "
                f"Python, peak {peak:,.0f} MB, {size / len(chosen):,.0f} bytes a gene on disk"
            )
    print(*project(rates), sep="\n")


if __name__ == "__main__":
    main()
