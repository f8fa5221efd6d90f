"""K562 on hg38 by the published rules: DNase, H3K27ac and Hi-C to genes, links, windows, TFRECORDs.

python -m data_prep download --groups genome,annotation,K562,expression --out data
python -m data_prep run --config configs/prep/k562.py --out runs/k562 --set root=data
`root` holds the files named here; samples.tsv says which reads, peaks and contacts belong together:

cell_type accessibility assay h3k27ac peaks window_peaks contact expression expression_column
"""

import ml_collections


def get_config():
    """The fields that differ from the defaults; `python -m data_prep run --list-fields` has all."""
    config = ml_collections.ConfigDict()
    config.name = "K562, published rules"
    config.root = "data"
    config.samples = "samples.tsv"
    config.genome = {
        "name": "hg38",
        "fasta": "hg38.fa.gz",
        "contigs": "hg38.chrom.sizes",
        "blacklist": "hg38-blacklist.v2.bed.gz",
    }
    config.genes = {
        "annotation": "XpressoGeneBounds.hg38.bed",
        "tss_rule": "bed-end",
        "mrna_features": "mRNA_halflife_features.csv",
    }
    config.labels = {"name": "rna", "transform": "z-log10"}
    config.candidates = {"extend_bp": 250, "peaks_kept": 150_000, "blacklist_rule": "subtract"}
    config.windows = {"layout": "published"}
    return config
