"""Real input: 92 genes and 1,796 windows of K562 on slices of hg38, one fold at full size of the
published network.

D=../shared/data/k562_slices
python -m data_prep build --genes $D/genes.tsv --links $D/links.tsv --fasta $D/genome.fa.gz \\
  --windows $D/windows_256bp.tsv --window-labels log2_activity \\
  --contigs $D/contigs.tsv --out runs/k562_slices_records
python -m epinformer_jax.main --config configs/k562_slices.py --workdir runs/k562_slices

Too few genes to learn from: it proves the path on real files, not accuracy. Folds are the published
chromosomes.
"""

from epinformer_jax import config as config_lib


def get_config():
    """The configuration."""
    config = config_lib.default()
    config.name = "K562 slices, fold 5"
    config.data.genes = "runs/k562_slices_records/genes"
    config.data.windows = "runs/k562_slices_records/windows"
    config.data.fold_names = ("fold_5",)
    config.data.label = "rna"
    config.data.label_unit = "z(log10(RPKM + 0.1))"
    config.data.label_transform = "z_log10,offset=0.1,mean=0.24333,sd=1.06220"
    config.data.genome = "hg38"
    config.features.preset = "PE-Activity-HiC"
    config.encoder.source = "pretrain"
    config.pretrain.epochs = 3
    config.train.layouts = 1
    config.train.epochs = 3
    return config.lock()
