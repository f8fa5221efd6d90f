"""The simulated genome of `make demo`, both cell types, from BAM, peaks and mcool to TFRECORDs.

python -m data_prep simulate --out runs/demo_data
python -m data_prep run --config configs/prep/simulated.py --out runs/prepared
Another simulation: --set root=DIR. The tables are those of DIR/prepared, from the raw files.
"""

import ml_collections


def get_config():
    """The fields that differ from the defaults; `python -m data_prep run --list-fields` has all."""
    config = ml_collections.ConfigDict()
    config.name = "simulated genome"
    config.root = "runs/demo_data"
    config.samples = "samples.tsv"
    config.genome = {
        "name": "simulated",
        "fasta": "genome.fa",
        "contigs": "chrom.sizes",
        "blacklist": "blacklist.bed",
    }
    config.genes = {"annotation": "genes.bed", "mrna_features": "mrna_features.tsv"}
    config.labels = {"name": "rna", "transform": "z-log10"}
    config.candidates = {"extend_bp": 100, "blacklist_rule": "drop", "peaks_kept": 0}
    config.windows = {
        "per_summit": 3,
        "stride_bp": 78,
        "peaks_kept": 0,
        "around_tss": True,
        "negative_fraction": 0.05,
    }
    return config
