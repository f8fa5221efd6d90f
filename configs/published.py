"""The published recipe in its two stages, on your data, all folds of the table (K562: 12).

python -m epinformer_jax.main --config configs/published.py --workdir runs/published \\
  --config.data.genes=records/genes --config.data.windows=records/windows

The encoder is pre-trained on each fold's training chromosomes (configs/pretrain_published.py), then
trained on with the rest: stage 1 without promoter activity, stage 2 from the best weights of stage
1 with it, ten times slower. With the preset PE-Activity the original has one epoch of stage 2:
--config.features.preset=PE-Activity --config.second_stage.epochs=1
"""

from epinformer_jax import config as config_lib


def get_config():
    """The configuration."""
    config = config_lib.default()
    config.name = "published recipe"
    config.data.genes = "records/genes"
    config.data.windows = "records/windows"
    config.features.schema = "published"
    config.features.preset = "PE-Activity-HiC"

    config.encoder.source = "pretrain"
    config.encoder.mode = "tuned"
    config.pretrain.loss = "mse"
    config.pretrain.batch_size = 64
    config.data.strands = "both"

    config.train.loss = "smooth_l1"
    config.train.learning_rate = 5e-4
    config.train.weight_decay = 1e-6
    config.train.batch_size = 16
    config.train.epochs = 100
    config.train.patience_epochs = 3
    config.train.score = "pearson_squared"
    config.second_stage.epochs = 20
    config.second_stage.learning_rate = 5e-5
    return config.lock()
