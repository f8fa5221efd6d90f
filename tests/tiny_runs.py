"""A configuration for data of tests/tiny_datasets.py: two folds, every stage, one batch layout,
seconds to train.
"""

from pathlib import Path

import ml_collections
import tiny_datasets

from epinformer_jax import config as config_lib

GENES_A_SPLIT = 7


def write_data(folder: Path) -> Path:
    """genes/, windows/ and folds.tsv."""
    tiny_datasets.write_genes(folder / "genes", tiny_datasets.genes_of(per_split=GENES_A_SPLIT))
    tiny_datasets.write_windows(folder / "windows")
    (folder / "folds.tsv").write_text(tiny_datasets.FOLDS)
    return folder


def config_for(folder: Path, **changes) -> ml_collections.ConfigDict:
    """The configuration; `changes` are fields with __ for a dot, e.g. train__epochs=3."""
    config = config_lib.default()
    values = {
        "name": "tiny",
        "data.genes": str(folder / "genes"),
        "data.windows": str(folder / "windows"),
        "data.folds": str(folder / "folds.tsv"),
        "data.genome": "made up",
        "model.stem_channels": 4,
        "model.channels": (4,),
        "model.window_bp": tiny_datasets.WINDOW_BP,
        "model.max_elements": tiny_datasets.MAX_ELEMENTS,
        "model.summary_channels": 3,
        "model.summary_dilations": (2,),
        "model.summary_outputs": 2,
        "model.embedding": 4,
        "model.heads": 2,
        "model.layers": 1,
        "model.hidden": 8,
        "model.activity_window_bp": tiny_datasets.ACTIVITY_BP,
        "model.activity_hidden": 4,
        "encoder.source": "pretrain",
        "pretrain.epochs": 2,
        "pretrain.batch_size": 16,
        "train.epochs": 2,
        # more than there are genes: one layout fits all, so one compilation
        "train.batch_size": 32,
    }
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict(values)
    return config


def as_python(config: ml_collections.ConfigDict) -> str:
    """The text of a configuration file that makes this configuration."""
    return (
        "from epinformer_jax import config as config_lib\n\n\n"
        "def get_config():\n"
        "    config = config_lib.default()\n"
        f"    config.update({config.to_dict()!r})\n"
        "    return config.lock()\n"
    )
