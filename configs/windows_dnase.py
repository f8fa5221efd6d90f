"""Draft."""

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
