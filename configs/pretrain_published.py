"""The activity model as published: both strands of every window, squared error, batches of 64.

python -m epinformer_jax.main --config configs/pretrain_published.py --workdir runs/pretrain \\
  --config.data.windows=records/windows

Seven (K562) or five (GM12878) windows of 256 bp a peak, 156 bp apart; tests see the forward strand.
"""

from epinformer_jax import config as config_lib


def get_config():
    """The configuration."""
    config = config_lib.default()
    config.task = "activity"
    config.name = "activity, published recipe"
    config.data.windows = "records/windows"
    config.data.strands = "both"
    config.pretrain.loss = "mse"
    config.pretrain.learning_rate = 5e-4
    config.pretrain.weight_decay = 1e-6
    config.pretrain.batch_size = 64
    config.pretrain.epochs = 50
    config.pretrain.patience_epochs = 5
    config.pretrain.score = "pearson_squared"
    return config.lock()
