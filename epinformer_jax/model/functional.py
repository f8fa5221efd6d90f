"""Pure functions of a parameter tree: the definition of both models, for jit, grad and vmap.

`Variables` holds two nested dictionaries of arrays: `params` (trained) and `stats` (BatchNorm's
running statistics). Only this file knows that the layers are NNX modules. `encode`, `interact`,
`predict` and `activity` are plain, dense and in evaluation mode; every faster path elsewhere is
proved equal to them in the tests.

    variables = functional.init(config, seed=0)
    gradient = jax.grad(lambda bases: functional.activity(config, variables, bases,
    valid).sum())(bases)
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from epinformer_jax.model.architecture import ActivityConfig, ExpressionConfig, ModelConfig
from epinformer_jax.model.encoder import Track, full_rows
from epinformer_jax.model.epinformer import Activity, Expression, build

Tree = dict[str, Any]


class Variables(NamedTuple):
    """All arrays of a model: trained parameters and running statistics, as nested dictionaries."""

    params: Tree
    stats: Tree


def init(config: ModelConfig, *, seed: int) -> Variables:
    """Fresh weights with the published initialisation; the same seed gives the same weights."""
    _, params, stats = nnx.split(build(config, rngs=nnx.Rngs(seed)), nnx.Param, nnx.BatchStat)
    return Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(stats))


def shapes(config: ModelConfig) -> Variables:
    """The tree of `init` as jax.ShapeDtypeStruct, without computing anything."""
    return jax.eval_shape(functools.partial(init, config, seed=0))


def bind(config: ModelConfig, variables: Variables) -> Activity | Expression:
    """The module holding these arrays. For use inside one traced function; see `run`."""
    graph, params, stats = _skeleton(config)
    params, stats = nnx.clone(params), nnx.clone(stats)
    nnx.replace_by_pure_dict(params, variables.params)
    nnx.replace_by_pure_dict(stats, variables.stats)
    return nnx.merge(graph, params, stats)


def run(config: ModelConfig, variables: Variables, call: Callable[[Any], Any]) -> tuple[Any, Tree]:
    """call(module) and the running statistics after it: the only way from parameter trees to
    modules and back.
    """
    module = bind(config, variables)
    result = call(module)
    return result, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))


def encode(
    config: ExpressionConfig,
    variables: Variables,
    bases: Float[Array, "N L A"],
    valid: Bool[Array, "N L"],
) -> Float[Array, "N D"]:
    """Embeds sequences for the expression model, each on its own.

    `bases` is soft one-hot over ACGT, of any float dtype, at the model's full window; where `valid`
    is False it counts as all-zero padding. An unknown base is whatever `bases` says (0.25 in each
    channel for the published weights).
    """
    return bind(config, variables).embed(_rows(bases, valid))


def interact(
    config: ExpressionConfig,
    variables: Variables,
    embeddings: Float[Array, "B S D"],
    mask: Bool[Array, "B S"],
    link_features: Float[Array, "B S P"],
    gene_features: Float[Array, "B G"],
) -> tuple[Float[Array, "B"], Float[Array, "B K S"]]:
    """Expression and the promoter's attention (mean over heads) from embedded slots; slot 0 is the
    promoter.
    """
    return bind(config, variables).interact(embeddings, mask, link_features, gene_features)


def predict(
    config: ExpressionConfig,
    variables: Variables,
    bases: Float[Array, "B S L A"],
    valid: Bool[Array, "B S L"],
    link_features: Float[Array, "B S P"],
    gene_features: Float[Array, "B G"],
) -> tuple[Float[Array, "B"], Float[Array, "B K S"]]:
    """Expression and attention from sequences. A slot without any valid base is empty; slot 0 never
    is.
    """
    genes, slots = bases.shape[:2]
    flat = encode(
        config,
        variables,
        bases.reshape(genes * slots, *bases.shape[2:]),
        valid.reshape(genes * slots, -1),
    )
    mask = jnp.any(valid, axis=-1).at[:, 0].set(True)
    embeddings = flat.reshape(genes, slots, -1)
    return interact(config, variables, embeddings, mask, link_features, gene_features)


def activity(
    config: ActivityConfig,
    variables: Variables,
    bases: Float[Array, "N L A"],
    valid: Bool[Array, "N L"],
) -> Float[Array, "N"]:
    """log activity of sequences at the model's window (256 bp published), in the units the model
    was trained on.
    """
    return bind(config, variables)(_rows(bases, valid), train=False)


def transplant_encoder(source: Variables, target: Variables) -> Variables:
    """`target` with the encoder of `source`: how a pre-trained encoder enters the expression model.

    Raises:
      ValueError: the encoders differ in shape.
    """
    for name in ("params", "stats"):
        old, new = getattr(target, name)["encoder"], getattr(source, name)["encoder"]
        expected = jax.tree.map(jnp.shape, old)
        got = jax.tree.map(jnp.shape, new)
        if expected != got:
            raise ValueError(
                f"the pre-trained encoder does not fit: expected {expected}, got {got}"
            )
    return Variables(
        {**target.params, "encoder": source.params["encoder"]},
        {**target.stats, "encoder": source.stats["encoder"]},
    )


@functools.lru_cache(maxsize=16)
def _skeleton(config):
    module = nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(0)))
    return nnx.split(module, nnx.Param, nnx.BatchStat)


def _rows(bases, valid) -> Track:
    return full_rows(bases * valid[..., None].astype(bases.dtype), held=valid)
