"""Expression of one gene under many changes of one slot: only what the change can reach is redone.

Slots are given in groups whose leading axis is either the number of changes M or 1, "the same for
all changes". The star's attention keeps that: before the promoter has changed, an element that did
not is computed once; afterwards each change has its own. Equal to model.functional.interact on the
gene written out M times.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from epinformer_jax.model import functional, layers
from epinformer_jax.model.architecture import ExpressionConfig
from epinformer_jax.model.functional import Variables
from epinformer_jax.model.kmers import Table, Taps
from epinformer_jax.model.local import embedding_changes
from epinformer_jax.model.local_reference import DTYPE, Reference
from epinformer_jax.model.local_rows import Tiles


class Slots(NamedTuple):
    """Some slots of a gene; the leading axes of x and features are M or 1, each on its own.

    Attributes:
      x: embeddings.
      features: link features.
      mask: slots that hold something.
    """

    x: Float[Array, "_M S D"]
    features: Float[Array, "_N S P"]
    mask: Bool[Array, "S"]


class Gene(NamedTuple):
    """One gene without the slot that changes.

    Attributes:
      promoter: its slot; not read where the promoter is what changes.
      others: the other elements, as one group; at least one place, which may be empty.
    """

    promoter: Slots
    others: Slots


class Scalars(NamedTuple):
    """Link features of the slot that changes, and gene features; one row for all, or M rows."""

    link_features: Float[Array, "_M P"]
    gene_features: Float[Array, "_K G"]


def slot_changes(
    config: ExpressionConfig,
    variables: Variables,
    reference: Reference,
    tiles: Tiles,
    gene: Gene,
    scalars: tuple[Scalars, ...],
    table: Table | Taps | None = None,
    *,
    is_promoter: bool,
    phase: int,
) -> Float[Array, "K N V Q"]:
    """Expression with each substitution of one slot's sequence, once for each of the `scalars`.

    Rows of scalars belong to the substitutions in the order of the tiles: N, V, Q; `phase` is the
    start of the tiles modulo the tower's stride.
    """
    x = embedding_changes(config, variables, reference, tiles, table, phase=phase)
    flat = x.reshape(-1, 1, x.shape[3])
    found = [
        changed(config, variables, gene, flat, own, is_promoter=is_promoter) for own in scalars
    ]
    return jnp.stack(found).reshape(len(scalars), *x.shape[:3])


def changed(
    config: ExpressionConfig,
    variables: Variables,
    gene: Gene,
    embeddings: Float[Array, "M 1 D"],
    scalars: Scalars,
    *,
    is_promoter: bool,
) -> Float[Array, "M"]:
    """Expression with each of these embeddings in the slot that changes."""
    slot = Slots(embeddings, scalars.link_features[:, None], jnp.ones(1, bool))
    promoter, groups = gene.promoter, (gene.others, slot)
    if is_promoter:
        promoter, groups = slot, (gene.others,)
    found = respond(config, variables, promoter, groups, scalars.gene_features)
    return jnp.broadcast_to(found, embeddings.shape[:1])  # one for all where elements are not used


def respond(
    config: ExpressionConfig,
    variables: Variables,
    promoter: Slots,
    groups: tuple[Slots, ...],
    gene_features: Float[Array, "_K G"],
) -> Float[Array, "M"]:
    """Expression under each change. `promoter` is one slot; the order of elements has no effect.

    At least one leading axis must be M; all are M or 1.
    """
    model = functional.bind(config, variables)
    if not config.use_elements:
        groups = ()
    states = [_fused(model, slots) for slots in (promoter, *groups)]
    masks = [slots.mask for slots in groups]
    for index in range(config.layers):
        layer = getattr(model, f"interaction_{index}")
        states = _interact(layer, states, masks, promoter_only=index == config.layers - 1)
    x = states[0][:, 0]
    count = max(x.shape[0], gene_features.shape[0])
    parts = [jnp.broadcast_to(part, (count, part.shape[1])) for part in (x, gene_features)]
    return model.head(jnp.concatenate(parts, axis=-1))


def _fused(model, slots: Slots) -> Float[Array, "_M S D"]:
    if not model.config.link_features:
        return slots.x
    count = max(slots.x.shape[0], slots.features.shape[0])
    x, features = (jnp.broadcast_to(a, (count, *a.shape[1:])) for a in slots[:2])
    return model.fusion(x, features, DTYPE)


def _interact(layer, states, masks, *, promoter_only: bool):
    """One layer of the star: the promoter sees every slot, an element itself and the promoter."""
    normal = [_normalised(layer.norm_attention, x) for x in states]
    keys = [layer.key(h, DTYPE) for h in normal]
    values = [layer.value(h, DTYPE) for h in normal]
    size = keys[0].shape[-1] // layer.heads
    heads = jnp.repeat(jnp.eye(layer.heads, dtype=keys[0].dtype), size, axis=0)
    query = layer.query(normal[0], DTYPE) * size**-0.5
    mixed = [_promoter_mix(query, keys, values, masks, heads)]
    if not promoter_only:
        for h, key, value, mask in zip(normal[1:], keys[1:], values[1:], masks, strict=True):
            own = layer.query(h, DTYPE) * size**-0.5
            mixed.append(_element_mix(own, key, value, keys[0], values[0], mask, heads))
    return [_add(layer, x, y) for x, y in zip(states, mixed, strict=False)]


def _promoter_mix(query, keys, values, masks, heads) -> Float[Array, "_M 1 D"]:
    logits = [_products(key, query, heads) for key in keys]
    for index, mask in enumerate(masks, start=1):
        logits[index] = jnp.where(mask[None, :, None], logits[index], -jnp.inf)
    count = max(part.shape[0] for part in logits)
    whole = [jnp.broadcast_to(part, (count, *part.shape[1:])) for part in logits]
    weights = jax.nn.softmax(jnp.concatenate(whole, axis=1), axis=1)
    parts, first = [], 0
    for value in values:
        share = weights[:, first : first + value.shape[1]]
        parts.append(_weighted_sum(share, value, heads))
        first += value.shape[1]
    return sum(parts)[:, None]


def _products(
    slots: Float[Array, "_M S D"], promoter: Float[Array, "_N 1 D"], heads: Float[Array, "D H"]
) -> Float[Array, "_K S H"]:
    """Each head's product of slots with the promoter: as a product of matrices, for small ones in
    their stead, one for each change, are many times slower.
    """
    if slots.shape[0] > 1:
        return _matmul(slots * promoter, heads[None])
    spread = jnp.swapaxes(slots[0][:, :, None] * heads[None], 0, 1)
    found = _matmul(promoter[:, 0], spread.reshape(len(heads), -1))
    return found.reshape(len(promoter), slots.shape[1], -1)


def _weighted_sum(
    share: Float[Array, "_M S H"], value: Float[Array, "_N S D"], heads: Float[Array, "D H"]
) -> Float[Array, "_K D"]:
    """The sum over slots, each head with its own shares."""
    if value.shape[0] > 1:
        return sum(
            _spread(share, heads)[:, slot] * value[:, slot] for slot in range(value.shape[1])
        )
    spread = jnp.swapaxes(value[0][:, :, None] * heads[None], 1, 2)
    return _matmul(share.reshape(len(share), -1), spread.reshape(-1, len(heads)))


def _element_mix(
    query, key, value, promoter_key, promoter_value, mask, heads
) -> Float[Array, "_M S D"]:
    to_promoter = _products(query, promoter_key, heads)
    to_self = jnp.where(mask[None, :, None], _matmul(query * key, heads[None]), -jnp.inf)
    share = _spread(jax.nn.sigmoid(to_promoter - to_self), heads)
    return share * promoter_value + (1 - share) * value


def _spread(share: Float[Array, "_M S H"], heads: Float[Array, "D H"]) -> Float[Array, "_M S D"]:
    """Each head's number for all of its channels."""
    return jnp.repeat(share, len(heads) // heads.shape[1], axis=-1)


def _add(layer, x, mixed):
    """The layer's residual and its pointwise network."""
    y = x + layer.out(mixed, DTYPE)
    return y + layer.contract(
        jax.nn.relu(layer.expand(_normalised(layer.norm_mlp, y), DTYPE)), DTYPE
    )


def _normalised(norm: layers.LayerNorm, x: Float[Array, "_M S D"]) -> Float[Array, "_M S D"]:
    """norm(x), with the means as products of matrices: sums over few channels are slow loops."""
    share = jnp.full((1, x.shape[-1], 1), 1 / x.shape[-1], x.dtype)
    centred = x - _matmul(x, share)
    var = _matmul(jnp.square(centred), share)
    normal = centred * jax.lax.rsqrt(var + layers.LAYER_NORM_EPSILON)
    return layers.affine(normal, norm.scale[...], norm.bias[...])


def _matmul(first, second):
    return jnp.matmul(first, second, precision=layers.precision_of(DTYPE))
