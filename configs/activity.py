"""The 256 bp activity model on a windows data set, all folds of the table.

python -m epinformer_jax.main --config configs/activity.py --workdir runs/activity \\
  --config.data.windows=records/windows
"""

from epinformer_jax import config as config_lib


def get_config():
    """The configuration."""
    config = config_lib.default()
    config.task = "activity"
    config.name = "activity"
    config.data.windows = "records/windows"
    return config.lock()
