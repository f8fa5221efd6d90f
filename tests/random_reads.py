"""Random alignments of every kind in a BAM or CRAM file, and random regions to count them over."""

import numpy as np
import pandas as pd
import pysam

CONTIGS = {"chr1": 5000, "chr2": 3000}


def write_bam(path, *, seed=0, reads=400, contigs=CONTIGS, mode="wb", **options):
    """Random alignments of every kind, sorted and indexed."""
    rng = np.random.default_rng(seed)
    header = {"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": []}
    header["SQ"] = [{"SN": name, "LN": length} for name, length in contigs.items()]
    kinds = ["30M", "10M5D20M", "5S25M", "10M200N20M", "12M3I15M"]
    rows = []
    for index in range(reads):
        contig = int(rng.integers(len(contigs)))
        start = int(rng.integers(0, list(contigs.values())[contig] - 250))
        rows.append((contig, start, index))
    with pysam.AlignmentFile(path, mode, header=header, **options) as handle:
        for contig, start, index in sorted(rows):
            read = pysam.AlignedSegment(handle.header)
            read.query_name = f"r{index}"
            read.reference_id, read.reference_start = contig, start
            read.cigarstring = kinds[int(rng.integers(len(kinds)))]
            read.query_sequence = "A" * read.infer_query_length()
            read.query_qualities = pysam.qualitystring_to_array("I" * len(read.query_sequence))
            read.mapping_quality = int(rng.integers(0, 61))
            flags = [0, 0, 0, 0x10, 0x10, 0x100, 0x200, 0x400, 0x410, 0x800]
            read.flag = flags[int(rng.integers(len(flags)))]
            handle.write(read)
    if mode == "wb":
        pysam.index(str(path))
    return path


def random_regions(seed=1, number=60, contigs=CONTIGS):
    """Overlapping regions of 1 to 400 bp in no order."""
    rng = np.random.default_rng(seed)
    chrom = rng.choice(list(contigs), number)
    start = np.array([rng.integers(0, contigs[name] - 400) for name in chrom], np.int64)
    return pd.DataFrame(
        {"chrom": chrom, "start": start, "end": start + rng.integers(1, 400, number)}
    )
