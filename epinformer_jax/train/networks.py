"""The networks a configuration asks for."""

import ml_collections

from epinformer_jax.data import features as features_lib
from epinformer_jax.model.architecture import ActivityConfig, EncoderConfig, ExpressionConfig


def check(config: ml_collections.ConfigDict) -> None:
    """Builds the shapes of all networks of a run, so that a wrong one is found before data are
    read.

    Raises:
      ValueError: a network that cannot be; says which fields do not go together.
    """
    if config.task == "expression":
        schema = features_lib.schema(config.features.schema, config.features.preset)
        expression_config(config, schema)
    if config.task == "activity" or config.encoder.source == "pretrain":
        activity_config(config)


def encoder_config(config: ml_collections.ConfigDict) -> EncoderConfig:
    """The shared encoder a configuration asks for."""
    m = config.model
    return EncoderConfig(m.stem_channels, m.stem_width, tuple(m.channels))


def activity_config(config: ml_collections.ConfigDict) -> ActivityConfig:
    """The activity network a configuration asks for."""
    m = config.model
    return ActivityConfig(
        encoder=encoder_config(config),
        window_bp=m.activity_window_bp,
        hidden=m.activity_hidden,
        dropout=m.activity_dropout,
        pool=m.activity_pool,
        encoder_dropout=m.activity_encoder_dropout,
        strands=m.activity_strands,
        compute_dtype=m.compute_dtype,
    )


def expression_config(
    config: ml_collections.ConfigDict, schema: features_lib.FeatureSchema
) -> ExpressionConfig:
    """The expression network a configuration and its feature schema ask for."""
    m = config.model
    return ExpressionConfig(
        encoder=encoder_config(config),
        window_bp=m.window_bp,
        slots=1 + m.max_elements,
        use_elements=schema.use_elements,
        summary_channels=m.summary_channels,
        summary_dilations=tuple(m.summary_dilations),
        summary_outputs=m.summary_outputs,
        summary_batch_norm=m.summary_batch_norm,
        embedding=m.embedding,
        heads=m.heads,
        layers=m.layers,
        hidden=m.hidden,
        link_features=len(schema.link_features),
        gene_features=len(schema.gene_features),
        statistics=m.statistics,
        compute_dtype=m.compute_dtype,
    )
