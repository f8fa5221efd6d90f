"""The newer pipeline's recipe: one stage, raw feature scales, an encoder whose weights stay.

python -m epinformer_jax.main --config configs/pipeline2026.py --workdir runs/pipeline2026 \\
  --config.data.genes=records/genes --config.data.windows=records/windows

The encoder is pre-trained as in configs/pretrain_2026.py. As published its weights are frozen while
its BatchNorm goes on with batch statistics; --config.encoder.mode=frozen keeps those still, too.
Unlike the original, the last batch of an epoch is not left out. No published output exists to check
the feature scales against.
"""

from epinformer_jax import config as config_lib


def get_config():
    """The configuration."""
    config = config_lib.default()
    config.name = "pipeline of 2026"
    config.seed = 66
    config.data.genes = "records/genes"
    config.data.windows = "records/windows"
    config.features.schema = "pipeline2026"
    config.features.preset = "PE-Activity-HiC"
    config.model.summary_batch_norm = False

    config.encoder.source = "pretrain"
    config.encoder.mode = "frozen_as_published"
    config.data.strands = "random"
    config.pretrain.loss = "l1kl"
    config.pretrain.batch_size = 256
    config.pretrain.learning_rate = 5e-4
    config.pretrain.epochs = 50
    config.pretrain.patience_epochs = 5
    config.pretrain.score = "pearson_squared"

    config.train.loss = "smooth_l1"
    config.train.learning_rate = 1e-4
    config.train.weight_decay = 1e-6
    config.train.batch_size = 50
    config.train.epochs = 50
    config.train.patience_epochs = 8
    config.train.score = "pearson_squared"
    return config.lock()
