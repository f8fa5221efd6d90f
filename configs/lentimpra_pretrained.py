"""HepG2 lentiMPRA: the activity model with an encoder pre-trained on DNase, two folds.

Prepare as configs/lentimpra.py says, run configs/windows_dnase.py, then
python -m epinformer_jax.main --config configs/lentimpra_pretrained.py --workdir runs/lentimpra_pre

2 minutes a fold on two CPU cores. Same 2,438 held-out rows, one seed:
Pearson r 0.515 [0.475, 0.551]; above the ridge by +0.015 [-0.015, 0.048], above scratch by +0.009
[-0.011, 0.031] (twins resampled together): no gain is shown. Library and windows name their splits
differently, so leakage cannot be seen by name: 214 of the 6,146 sequences share 31 bases with a
window. Their DNase was seen, never their measured activity.
"""

from epinformer_jax import config as config_lib


def get_config():
    """The configuration."""
    config = config_lib.default()
    config.task = "activity"
    config.name = "HepG2 lentiMPRA, encoder pre-trained on DNase"
    config.data.windows = "runs/lentimpra_records/windows"
    config.data.folds = "runs/lentimpra_data/folds.tsv"
    # Not fold_2: it tests part_2, on which the values below were chosen.
    config.data.fold_names = ("fold_1", "fold_3")
    config.data.activity_label = "activity"
    config.data.strands = "both"
    config.data.shift_bp = 12

    config.encoder.source = "directory"
    config.encoder.directory = "runs/windows_dnase/fold_1"

    config.model.stem_channels = 64
    config.model.channels = (64, 64, 64, 64)
    config.model.activity_hidden = 64
    config.model.activity_dropout = 0.3
    config.model.activity_encoder_dropout = 0.2
    config.model.activity_pool = "mean"
    config.model.activity_strands = "both"

    config.pretrain.batch_size = 128
    config.pretrain.epochs = 8
    config.pretrain.patience_epochs = 0
    config.pretrain.learning_rate = 3e-3
    config.pretrain.weight_decay = 1e-2
    config.pretrain.schedule = "cosine"
    config.pretrain.score = "pearson"
    return config.lock()
