"""The expression network written plainly: every slot, every base, full attention, and no layer of
the package.

The oracle of the packed, cropped and star-shaped computations. BatchNorm takes an explicit weight
for each row and position, so what "padded" and "real" statistics count is written out here.
"""

import jax
import jax.numpy as jnp
import numpy as np

KEEP = 0.9  # of a running statistic
EPSILON = 1e-5


def conv(x, layer, *, same, dilation=1):
    """Cross-correlation as a sum over taps; `same` pads one more on the right for an even width."""
    kernel = layer["kernel"]
    width, length = kernel.shape[0], x.shape[1]
    reach = dilation * (width - 1)
    if same:
        x = jnp.pad(x, ((0, 0), (reach // 2, reach - reach // 2), (0, 0)))
    else:
        length -= reach
    taps = [x[:, k * dilation : k * dilation + length] @ kernel[k] for k in range(width)]
    y = sum(taps)
    return y + layer["bias"][None, None] if "bias" in layer else y


def linear(x, layer):
    y = x @ layer["kernel"]
    return y + layer["bias"].reshape((1,) * (y.ndim - 1) + (-1,)) if "bias" in layer else y


def elu(x):
    return jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0)))


def max_pool(x):
    pairs = x[:, : x.shape[1] // 2 * 2].reshape(x.shape[0], -1, 2, x.shape[2])
    return jnp.where(pairs[:, :, 0] >= pairs[:, :, 1], pairs[:, :, 0], pairs[:, :, 1])


def layer_norm(x, layer):
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + EPSILON)
    return x * layer["scale"].reshape(1, 1, -1) + layer["bias"].reshape(1, 1, -1)


def batch_norm(x, layer, running, weight):
    """The normalised x and the new running statistics; `weight` None: with the old ones."""
    if weight is None:
        mean, var, new = running["mean"], running["var"], running
    else:
        weight = jnp.broadcast_to(weight, x.shape[:-1])[..., None]
        count = weight.sum()
        mean = (x * weight).sum((0, 1)) / count
        var = ((x - mean[None, None]) ** 2 * weight).sum((0, 1)) / count
        unbiased = var * count / (count - 1)
        new = {
            "mean": KEEP * running["mean"] + (1 - KEEP) * mean,
            "var": KEEP * running["var"] + (1 - KEEP) * unbiased,
        }
    factor = layer["scale"] / jnp.sqrt(var + EPSILON)
    return x * factor[None, None] + (layer["bias"] - mean * factor)[None, None], new


def row_weights(mask, statistics):
    """[rows]: padded counts every slot, real only those that hold a sequence."""
    mask = np.asarray(mask).reshape(-1)
    return np.ones(len(mask)) if statistics == "padded" else mask.astype(float)


def position_weights(valid, bases_per_position, statistics):
    """[rows, positions]: padded counts all of them, real those that see a base of the sequence."""
    windows = np.asarray(valid).reshape(valid.shape[0], -1, bases_per_position)
    seen = windows.any(axis=2).astype(float)
    return np.ones_like(seen) if statistics == "padded" else seen


def embed(config, params, stats, bases, valid, *, train, train_encoder=True):
    """[rows, D] and the new statistics, from bases [rows, L, 4] and valid [rows, L]."""
    statistics = config.statistics
    mask = np.asarray(valid).any(axis=1)
    tower, new_tower = params["encoder"], {}
    x = elu(conv(bases, tower["stem"], same=True))
    for index in range(len(config.encoder.channels)):
        name = f"block_{index}"
        block, running = tower[name], stats["encoder"][name]["norm"]
        weight = None
        if train and train_encoder:
            weight = jnp.asarray(position_weights(valid, 2**index, statistics))
        x = conv(x, block["conv"], same=True)
        x, new = batch_norm(x, block["norm"], running, weight)
        new_tower[name] = {"norm": new}
        x = max_pool(elu(x))
        x = x + elu(linear(x, block["residual"]))
    summary, new_summary = params["summary"], {}
    weight = jnp.asarray(row_weights(mask, statistics))[:, None] if train else None
    for index, dilation in enumerate([*config.summary_dilations, 1]):
        x = conv(x, summary[f"conv_{index}"], same=False, dilation=dilation)
        if config.summary_batch_norm:
            name = f"norm_{index}"
            x, new_summary[name] = batch_norm(x, summary[name], stats["summary"][name], weight)
        x = elu(x)
    pooled = elu(linear(jnp.swapaxes(x, 1, 2), summary["pool"]))  # channel outer, position inner
    new = {"encoder": new_tower}
    return pooled.reshape(len(mask), -1), new | ({"summary": new_summary} if new_summary else {})


def star_mask(mask):
    """[B, query, key]: the promoter sees all, all see it and themselves; no empty keys."""
    slots = mask.shape[1]
    star = np.eye(slots, dtype=bool)
    star[0], star[:, 0] = True, True
    return jnp.asarray(star)[None] & jnp.asarray(mask)[:, None]


def attention_layer(x, layer, mask, heads):
    """Pre-LayerNorm attention over all pairs under the star mask: x and promoter attention."""
    genes, slots, width = x.shape
    h = layer_norm(x, layer["norm_attention"])
    query, key, value = (
        linear(h, layer[name]).reshape(genes, slots, heads, -1)
        for name in ("query", "key", "value")
    )
    logits = jnp.einsum("bqhe,bkhe->bhqk", query, key) / np.sqrt(width / heads)
    weights = jax.nn.softmax(jnp.where(star_mask(mask)[:, None], logits, -jnp.inf), axis=-1)
    mixed = jnp.einsum("bhqk,bkhe->bqhe", weights, value).reshape(x.shape)
    x = x + linear(mixed, layer["out"])
    inner = jax.nn.relu(linear(layer_norm(x, layer["norm_mlp"]), layer["expand"]))
    return x + linear(inner, layer["contract"]), weights.mean(1)[:, 0]


def interact(config, params, embeddings, mask, links, genes):
    """Expression [B] and the promoter's attention [B, K, S]."""
    x = embeddings
    if config.link_features:
        fusion = params["fusion"]
        x = jax.nn.relu(linear(jnp.concatenate([x, links], -1), fusion["first"]))
        x = jax.nn.relu(linear(x, fusion["second"]))
    attention = []
    for index in range(config.layers):
        x, weights = attention_layer(x, params[f"interaction_{index}"], mask, config.heads)
        attention.append(weights)
    head = params["head"]
    x = jax.nn.relu(linear(jnp.concatenate([x[:, 0], genes], -1), head["dense_0"]))
    x = jax.nn.relu(linear(x, head["dense_1"]))
    return linear(x, head["output"])[:, 0], jnp.stack(attention, axis=1)


def express(config, params, stats, dense, *, train, train_encoder=True):
    """Expression, attention and new statistics of dense genes (tests/tiny_models.Dense)."""
    genes, slots, window = dense.valid.shape
    embedded, new = embed(
        config,
        params,
        stats,
        jnp.asarray(dense.bases).reshape(genes * slots, window, 4),
        dense.valid.reshape(genes * slots, window),
        train=train,
        train_encoder=train_encoder,
    )
    mask = dense.valid.any(axis=2)
    prediction, attention = interact(
        config,
        params,
        embedded.reshape(genes, slots, -1),
        mask,
        jnp.asarray(dense.link_features),
        jnp.asarray(dense.gene_features),
    )
    return prediction, attention, new
