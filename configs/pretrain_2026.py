"""The activity model of the newer pipeline: L1 with a divergence, each window on a random strand.

python -m epinformer_jax.main --config configs/pretrain_2026.py --workdir runs/pretrain_2026 \\
  --config.data.windows=records/windows

Five windows of 256 bp a summit, 192 bp apart, and genomic negatives. The original reports the mean
of both strands; add --config.model.activity_strands=both for that.
"""

from epinformer_jax import config as config_lib


def get_config():
    """The configuration."""
    config = config_lib.default()
    config.task = "activity"
    config.name = "activity, pipeline of 2026"
    config.data.windows = "records/windows"
    config.data.strands = "random"
    config.pretrain.loss = "l1kl"
    config.pretrain.learning_rate = 5e-4
    config.pretrain.weight_decay = 1e-6
    config.pretrain.batch_size = 256
    config.pretrain.epochs = 50
    config.pretrain.patience_epochs = 5
    config.pretrain.score = "pearson_squared"
    return config.lock()
