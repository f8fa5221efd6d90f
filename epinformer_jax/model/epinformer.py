"""The activity model and the expression model (spec 1.2, 1.4), built on the shared encoder."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from epinformer_jax.model import layers
from epinformer_jax.model.architecture import ActivityConfig, ExpressionConfig
from epinformer_jax.model.encoder import Encoder, Track


class Mixer(nnx.Module):
    """Convolutions with BatchNorm and ELU over the tower's output, at its length (one variant)."""

    def __init__(self, config: ActivityConfig, *, rngs: nnx.Rngs):
        inputs = config.encoder.channels[-1]
        plan = zip(config.mixer_widths, config.mixer_dilations, config.mixer_channels, strict=True)
        for index, (width, dilation, outputs) in enumerate(plan):
            conv = layers.Conv(inputs, outputs, width, rngs=rngs, dilation=dilation, use_bias=False)
            setattr(self, f"conv_{index}", conv)
            setattr(self, f"norm_{index}", layers.BatchNorm(outputs))
            inputs = outputs
        self.count = len(config.mixer_channels)

    def __call__(
        self, x: Float[Array, "N L C"], weight: Float[Array, "N"], *, train: bool, dtype: str
    ) -> Float[Array, "N L O"]:
        for index in range(self.count):
            norm = getattr(self, f"norm_{index}")
            x = getattr(self, f"conv_{index}")(x, same=True, dtype=dtype)
            scaling = norm.fit([(x, weight[:, None])]) if train else norm.fixed()
            x = layers.elu(layers.affine(x, *scaling))
        return x


class ActivityHead(nnx.Module):
    """Two hidden layers (none when `hidden` is 0) with BatchNorm, ReLU and dropout, one output."""

    def __init__(self, config: ActivityConfig, *, rngs: nnx.Rngs):
        positions = config.window_bp // config.encoder.stride if config.pool == "flatten" else 1
        inputs = positions * (config.encoder.channels + config.mixer_channels)[-1]
        self.rate = config.dropout
        self.count = 2 if config.hidden else 0
        for index in range(self.count):
            dense = layers.Linear(inputs, config.hidden, rngs=rngs, use_bias=False)
            setattr(self, f"dense_{index}", dense)
            setattr(self, f"norm_{index}", layers.BatchNorm(config.hidden))
            inputs = config.hidden
        self.output = layers.Linear(inputs, 1, rngs=rngs)

    def __call__(
        self, x: Float[Array, "N I"], weight: Float[Array, "N"], *, train: bool, key, dtype: str
    ):
        keys = (None, None) if key is None else jax.random.split(key)
        for index in range(self.count):
            norm = getattr(self, f"norm_{index}")
            x = getattr(self, f"dense_{index}")(x, dtype)
            x = layers.affine(x, *(norm.fit([(x, weight)]) if train else norm.fixed()))
            x = layers.dropout(jax.nn.relu(x), self.rate, keys[index])
        return self.output(x)[:, 0]


class Activity(nnx.Module):
    """log activity of one sequence from its bases alone."""

    def __init__(self, config: ActivityConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config.encoder, rngs=rngs)
        if config.mixer_channels:
            self.mixer = Mixer(config, rngs=rngs)
        self.head = ActivityHead(config, rngs=rngs)

    def __call__(self, rows: Track, *, train: bool, key=None) -> Float[Array, "N"]:
        """Predictions for rows of full width; `key` draws dropout, None switches it off."""
        prediction = self._one_strand(rows, train=train, key=key)
        if self.config.strands == "forward" or train:
            return prediction
        # channels are A, C, G, T: both axes turn around
        other = rows._replace(x=rows.x[:, ::-1, ::-1], held=rows.held[:, ::-1])
        return (prediction + self._one_strand(other, train=False, key=None)) / 2

    def _one_strand(self, rows: Track, *, train: bool, key) -> Float[Array, "N"]:
        config, weight = self.config, rows.weight[:, 0]
        encoder_key, head_key = (None, None) if key is None else jax.random.split(key)
        rows, _ = self.encoder(rows, None, train=train, dtype=config.compute_dtype)
        x = rows.x
        if config.mixer_channels:
            x = self.mixer(x, weight, train=train, dtype=config.compute_dtype)
        x = jnp.mean(x, axis=1) if config.pool == "mean" else x.reshape(x.shape[0], -1)
        x = layers.dropout(x, config.encoder_dropout, encoder_key)
        return self.head(x, weight, train=train, key=head_key, dtype=config.compute_dtype)


class Behind(NamedTuple):
    """Rows behind the encoder, or tracks of *places* there, each of which stands for a position of
    some row (data/batches.py).

    Attributes:
      x: the tower's output.
      weight: how often each row counts in batch statistics.
      row: whose place it is, M for nobody's; None: row m is row m, from its first position on.
      position: which of the row's positions a place stands for.
      first, last: the first position of each row that has a place, and one behind the last.
    """

    x: Float[Array, "N P C"]
    weight: Float[Array, "M"]
    row: Int[Array, "N P"] | None = None
    position: Int[Array, "N P"] | None = None
    first: Int[Array, "M"] | None = None
    last: Int[Array, "M"] | None = None


class Summary(nnx.Module):
    """Dilated convolutions over the tower's output, then a linear map over its length: one
    embedding a row.

    Component c * positions + p of the embedding is channel c, position p (spec 1.4, step 3).
    """

    def __init__(self, config: ExpressionConfig, *, rngs: nnx.Rngs):
        self.has_norm = config.summary_batch_norm
        plan = [(3, dilation, config.summary_channels) for dilation in config.summary_dilations]
        plan.append((1, 1, config.summary_outputs))
        self.count = len(plan)
        inputs = config.encoder.channels[-1]
        for index, (width, dilation, outputs) in enumerate(plan):
            conv = layers.Conv(
                inputs, outputs, width, rngs=rngs, dilation=dilation, use_bias=not self.has_norm
            )
            setattr(self, f"conv_{index}", conv)
            if self.has_norm:
                setattr(self, f"norm_{index}", layers.BatchNorm(outputs))
            inputs = outputs
        positions = config.embedding // config.summary_outputs
        self.pool = layers.Linear(config.summary_length, positions, rngs=rngs)

    def __call__(
        self,
        behind: Behind,
        background: Float[Array, "1 L C"] | None,
        empty_rows: Float[Array, ""] | float = 0.0,
        *,
        train: bool,
        dtype: str,
    ) -> Float[Array, "M D"]:
        """Embeds rows. Where they stand on tracks, the background is what they hold elsewhere.

        In batch statistics a position counts with its row's weight, and the background's also for
        `empty_rows`.
        """
        x = behind.x
        for index in range(self.count):
            conv = getattr(self, f"conv_{index}")
            x = conv(x, same=False, dtype=dtype)
            if background is not None:
                background = conv(background, same=False, dtype=dtype)
            scaling = None
            if self.has_norm:
                norm = getattr(self, f"norm_{index}")
                parts = _parts(x, behind, background, empty_rows) if train else []
                scaling = norm.fit(parts) if train else norm.fixed()
            x = _activated(x, scaling)
            if background is not None:
                background = _activated(background, scaling)
        pooled = self._rows(x, dtype) if background is None else self._tracks(x, behind, background)
        return layers.elu(pooled + self.pool.bias[...][None, None]).reshape(pooled.shape[0], -1)

    def _rows(self, x: Float[Array, "N L F"], dtype: str) -> Float[Array, "N F P"]:
        """The linear map over the length of whole rows."""
        return _einsum("nlc,lp->ncp", x, self.pool.kernel[...], dtype)

    def _tracks(self, x, behind: Behind, background) -> Float[Array, "M F P"]:
        """The same of rows on tracks: each place's part, and the background's elsewhere."""
        kernel, rows = self.pool.kernel[...], behind.weight.shape[0]
        width, length = x.shape[1], kernel.shape[0]
        position = behind.position[:, :width]
        factors = kernel[jnp.minimum(position, length - 1)]
        # places beyond the last position, and nobody's, are added up where nobody looks
        row = jnp.where(position < length, behind.row[:, :width], rows).reshape(-1)
        elsewhere = _outside(behind, length).astype(x.dtype)
        exact = jax.lax.Precision.HIGHEST
        sums = []
        for output in range(kernel.shape[1]):
            parts = (x * factors[..., output, None]).reshape(-1, x.shape[2])
            inside = jax.ops.segment_sum(parts, row, num_segments=rows + 1)[:rows]
            nothing = background[0] * kernel[:, output, None]
            sums.append(inside + jnp.matmul(elsewhere, nothing, precision=exact))
        return jnp.stack(sums, axis=-1)


def _parts(x, behind: Behind, background, empty_rows) -> list[layers.WeightedPart]:
    """What BatchNorm counts behind one convolution."""
    if background is None:
        return [(x, behind.weight[:, None])]
    length, width = background.shape[1], x.shape[1]
    weight = jnp.append(behind.weight, 0)[behind.row[:, :width]]
    weight = jnp.where(behind.position[:, :width] < length, weight, 0)
    copies = jnp.einsum("m,ml->l", behind.weight, _outside(behind, length).astype(weight.dtype))
    return [(x, weight), (background, (copies + empty_rows)[None])]


def _outside(behind: Behind, length: int) -> Bool[Array, "M L"]:
    """Positions of each row that have no place."""
    position = jnp.arange(length)[None]
    return (position < behind.first[:, None]) | (position >= behind.last[:, None])


def _activated(x, scaling):
    return layers.elu(x if scaling is None else layers.affine(x, *scaling))


class Fusion(nnx.Module):
    """Mixes an embedding with its link features: two pointwise layers with ReLU, on every slot."""

    def __init__(self, config: ExpressionConfig, *, rngs: nnx.Rngs):
        width = config.embedding
        self.first = layers.Linear(width + config.link_features, width, rngs=rngs)
        self.second = layers.Linear(width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "B S D"], features: Float[Array, "B S P"], dtype: str):
        x = jax.nn.relu(self.first(jnp.concatenate([x, features], axis=-1), dtype))
        return jax.nn.relu(self.second(x, dtype))


class StarLayer(nnx.Module):
    """Pre-LayerNorm attention on a star: the promoter sees every slot, an element sees itself and
    the promoter.

    So an element's softmax has two terms and the cost is linear in the number of elements; equal to
    full attention under the published mask (spec 1.3, 1.4 step 5).
    """

    def __init__(self, config: ExpressionConfig, *, rngs: nnx.Rngs):
        width = config.embedding
        self.heads = config.heads
        self.norm_attention = layers.LayerNorm(width)
        for name in ("query", "key", "value"):
            setattr(self, name, layers.Linear(width, width, rngs=rngs, init=layers.xavier_stacked))
        self.out = layers.Linear(width, width, rngs=rngs)
        self.out.bias[...] = jnp.zeros(width, jnp.float32)
        self.norm_mlp = layers.LayerNorm(width)
        self.expand = layers.Linear(width, 4 * width, rngs=rngs)
        self.contract = layers.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x, mask: Bool[Array, "B S"], *, promoter_only: bool, dtype: str):
        """Returns the new slots ([B, 1, D] with `promoter_only`) and the promoter's attention, mean
        over heads [B, S].
        """
        h = self.norm_attention(x)
        key, value = self.split_heads(self.key(h, dtype)), self.split_heads(self.value(h, dtype))
        query = self.split_heads(self.query(h[:, :1] if promoter_only else h, dtype))
        query = query * query.shape[-1] ** -0.5
        attention = self._promoter_attention(query[:, 0], key, mask, dtype)
        mixed = _einsum("bhs,bshd->bhd", attention, value, dtype)[:, None]
        if not promoter_only:
            mixed = jnp.concatenate([mixed, _element_mix(query, key, value, mask)], axis=1)
            residual = x
        else:
            residual = x[:, :1]
        x = residual + self.out(mixed.reshape(residual.shape), dtype)
        x = x + self.contract(jax.nn.relu(self.expand(self.norm_mlp(x), dtype)), dtype)
        return x, jnp.mean(attention, axis=1)

    def _promoter_attention(self, query, key, mask, dtype) -> Float[Array, "B H S"]:
        logits = _einsum("bhd,bshd->bhs", query, key, dtype)
        return jax.nn.softmax(jnp.where(mask[:, None], logits, -jnp.inf), axis=-1)

    def split_heads(self, x: Float[Array, "B S D"]) -> Float[Array, "B S H E"]:
        """Each head's share of the channels."""
        return x.reshape(*x.shape[:2], self.heads, -1)


def _element_mix(query, key, value, mask) -> Float[Array, "B M H E"]:
    """Each element's mix of promoter and itself; an empty slot sees only the promoter."""
    to_promoter = jnp.sum(query[:, 1:] * key[:, :1], axis=-1, keepdims=True)
    to_self = jnp.sum(query[:, 1:] * key[:, 1:], axis=-1, keepdims=True)
    to_self = jnp.where(mask[:, 1:, None, None], to_self, -jnp.inf)
    share = jax.nn.softmax(jnp.concatenate([to_promoter, to_self], axis=-1), axis=-1)
    return share[..., :1] * value[:, :1] + share[..., 1:] * value[:, 1:]


def _einsum(equation, first, second, dtype):
    return jnp.einsum(
        equation,
        layers.cast(first, dtype),
        layers.cast(second, dtype),
        precision=layers.precision_of(dtype),
        preferred_element_type=first.dtype,
    )


class Head(nnx.Module):
    """Expression from the promoter slot and the gene features."""

    def __init__(self, config: ExpressionConfig, *, rngs: nnx.Rngs):
        self.dense_0 = layers.Linear(
            config.embedding + config.gene_features, config.hidden, rngs=rngs
        )
        self.dense_1 = layers.Linear(config.hidden, config.hidden, rngs=rngs)
        self.output = layers.Linear(config.hidden, 1, rngs=rngs)

    def __call__(self, x: Float[Array, "B I"]) -> Float[Array, "B"]:
        x = jax.nn.relu(self.dense_0(x))
        return self.output(jax.nn.relu(self.dense_1(x)))[:, 0]


class Expression(nnx.Module):
    """Expression of a gene from its promoter, its elements, their link features and the gene
    features.
    """

    def __init__(self, config: ExpressionConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config.encoder, rngs=rngs)
        self.summary = Summary(config, rngs=rngs)
        if config.link_features:
            self.fusion = Fusion(config, rngs=rngs)
        for index in range(config.layers):
            setattr(self, f"interaction_{index}", StarLayer(config, rngs=rngs))
        self.head = Head(config, rngs=rngs)

    def embed(self, rows: Track, *, train: bool = False) -> Float[Array, "N D"]:
        """One embedding a row of full width; rows do not see each other here."""
        config, weight = self.config, rows.weight[:, 0]
        rows, _ = self.encoder(
            rows, None, train=train, statistics=config.statistics, dtype=config.compute_dtype
        )
        return self.summarise(Behind(rows.x, weight), None, train=train)

    def summarise(
        self,
        behind: Behind,
        background: Float[Array, "1 L C"] | None,
        empty_rows: Float[Array, ""] | float = 0.0,
        *,
        train: bool,
    ) -> Float[Array, "M D"]:
        """From the tower's output to embeddings; `empty_rows` count in padded batch statistics."""
        config = self.config
        empty = empty_rows if config.statistics == "padded" else 0.0
        return self.summary(behind, background, empty, train=train, dtype=config.compute_dtype)

    def interact(
        self,
        embeddings: Float[Array, "B S D"],
        mask: Bool[Array, "B S"],
        link_features: Float[Array, "B S P"],
        gene_features: Float[Array, "B G"],
    ) -> tuple[Float[Array, "B"], Float[Array, "B K S"]]:
        """Expression and the promoter's attention to every slot, per layer, mean over heads. Slot 0
        must be in `mask`.
        """
        config = self.config
        if not config.use_elements:
            mask = mask & (jnp.arange(mask.shape[1]) == 0)[None]
        x = embeddings
        if config.link_features:
            x = self.fusion(x, link_features, config.compute_dtype)
        attention = []
        for index in range(config.layers):
            layer = getattr(self, f"interaction_{index}")
            last = index == config.layers - 1
            x, weights = layer(x, mask, promoter_only=last, dtype=config.compute_dtype)
            attention.append(weights)
        prediction = self.head(jnp.concatenate([x[:, 0], gene_features], axis=-1))
        return prediction, jnp.stack(attention, axis=1)


def build(config: ActivityConfig | ExpressionConfig, *, rngs: nnx.Rngs) -> Activity | Expression:
    """The module a configuration describes, with fresh weights."""
    return (Activity if config.kind == "activity" else Expression)(config, rngs=rngs)
