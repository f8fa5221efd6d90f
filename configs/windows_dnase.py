"""HepG2 DNase of 16,640 real 256 bp windows: pre-training for configs/lentimpra_pretrained.py.

D=runs/windows_dnase_data
python -m data_prep sequences --table ../shared/data/windows/dnase_256bp.tsv.gz \\
  --sequence-column seq --value-columns DNASE:HepG2 --log2-offset 0.1 --out $D/windows.tsv.gz
python -m data_prep build --windows $D/windows.tsv.gz --out runs/windows_dnase_records
python -m epinformer_jax.main --config configs/windows_dnase.py --workdir runs/windows_dnase

3 minutes on two CPU cores. The table's own split cuts through chromosomes
and is not read: the published fold_1 tests whole chromosomes. Its 1,536 held-out windows: Pearson r
0.725 [0.691, 0.755] in 6 epochs, ridge on 5-mers 0.735 [0.702, 0.763] (rows resampled).
"""

from epinformer_jax import config as config_lib


def get_config():
    """The configuration."""
    config = config_lib.default()
    config.task = "activity"
    config.name = "HepG2 DNase of 256 bp windows"
    config.data.windows = "runs/windows_dnase_records/windows"
    config.data.fold_names = ("fold_1",)
    config.data.activity_label = "DNASE:HepG2"
    config.data.genome = "hg38"
    config.data.shift_bp = 8

    config.model.stem_channels = 64
    config.model.channels = (64, 64, 64, 64)
    config.model.activity_hidden = 64
    config.model.activity_dropout = 0.3
    config.model.activity_encoder_dropout = 0.2
    config.model.activity_pool = "mean"
    config.model.activity_strands = "both"

    config.pretrain.batch_size = 128
    config.pretrain.epochs = 6
    config.pretrain.patience_epochs = 0
    config.pretrain.learning_rate = 2e-3
    config.pretrain.weight_decay = 1e-2
    config.pretrain.schedule = "cosine"
    config.pretrain.score = "pearson"
    return config.lock()
