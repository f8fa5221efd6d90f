"""Simulated genome, one cell type, two folds: what `make demo` runs, in a few minutes on two cores.

make demo
A narrow network on 256 bp windows. The held-out Pearson and the planted ceiling stand in the report
it writes.
"""

from epinformer_jax import config as config_lib


def get_config():
    """The configuration."""
    config = config_lib.default()
    config.name = "demo: simulated genome, cell type alpha"
    config.data.genes = "runs/demo_records/genes"
    config.data.windows = "runs/demo_records/windows"
    config.data.folds = "runs/demo_data/folds.tsv"
    config.data.label = "rna"
    config.data.label_unit = "z(log10(RPKM + 0.1))"
    config.data.genome = "simulated"
    config.features.schema = "log_signals"
    config.features.preset = "PE-Activity-HiC"

    config.model.stem_channels = 48
    config.model.channels = (32, 32, 32, 32)
    config.model.window_bp = 256
    config.model.max_elements = 40
    config.model.summary_channels = 32
    config.model.summary_dilations = (1, 1, 2)
    config.model.summary_outputs = 16
    config.model.embedding = 32
    config.model.layers = 2
    config.model.hidden = 64
    config.model.activity_hidden = 64

    config.model.statistics = "real"

    config.data.flip = True
    config.data.shift_bp = 12
    config.encoder.source = "pretrain"
    config.encoder.mode = "tuned"
    config.pretrain.batch_size = 64
    config.pretrain.epochs = 8
    config.pretrain.patience_epochs = 0
    config.pretrain.learning_rate = 1e-3
    config.pretrain.schedule = "cosine"
    config.train.layouts = 1
    config.train.batch_size = 16
    config.train.epochs = 13
    config.train.patience_epochs = 0
    config.train.learning_rate = 1.5e-3
    config.train.weight_decay = 0.1
    config.train.schedule = "cosine"
    config.train.score = "pearson"
    return config.lock()
