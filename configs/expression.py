"""Expression from promoter, elements, activity and contact: the published network on your data, all
folds of the table.

python -m epinformer_jax.main --config configs/expression.py --workdir runs/k562 \\
  --config.data.genes=records/genes --config.data.windows=records/windows

The encoder is pre-trained on each fold's own training chromosomes, then trained on with the rest.
"""

from epinformer_jax import config as config_lib


def get_config():
    """The configuration."""
    config = config_lib.default()
    config.name = "expression"
    config.data.genes = "records/genes"
    config.data.windows = "records/windows"
    config.encoder.source = "pretrain"
    return config.lock()
