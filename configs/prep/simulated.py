"""The simulated genome of `make demo`, both cell types, from BAM, peaks and mcool to TFRECORDs.

python -m data_prep simulate --out runs/demo_data
python -m data_prep run --config configs/prep/simulated.py --out runs/prepared
Another simulation: --set root=DIR. What comes out, beside the simulator's own DIR/prepared:
genes.tsv and links.tsv.gz hold the same genes and pairs with the same values, to 8 digits, apart
from abc_score: here the ABC pipeline's (elements within 5 Mb share a gene's score, contacts scaled
and with a pseudocount, self-promoters 1), there a share of activity x contact among the listed
links. Windows around summits and TSSs are the same with the same activity, but carry other names
(by place, not by number), and one that two summits share stands once. Negative windows are drawn
anew, by other random numbers, at three places around each point instead of one.
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
