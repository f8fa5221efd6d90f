"""The names and shapes of the original's tensors, and where each goes in our models.

`recognise` reads a network's shape off its tensors, `variables_of` fills our parameter tree. Each
tensor must find its place and each place must be filled. Numbers change in one way only: a bias in
front of a BatchNorm is folded into its running mean (mean - bias), since our layers have none.
"""

import re
from typing import Any

import jax
import numpy as np

from epinformer_jax.model import functional
from epinformer_jax.model.architecture import (
    ActivityConfig,
    EncoderConfig,
    ExpressionConfig,
    ModelConfig,
)
from epinformer_jax.model.functional import Variables

# Dilations are not in the weights; the positions that the summary leaves of 125 tell them.
SUMMARY_DILATIONS = {101: (2, 4, 6), 109: (2, 3, 3)}
_NORM_EPSILON = 1e-5
_UNUSED = re.compile(r".*\.num_batches_tracked|attn_encoder\.\d+\.linear[12]\.(weight|bias)")

Tensors = dict[str, np.ndarray]


def recognise(
    tensors: Tensors,
    *,
    run_name: str = "",
    mixer_dilations: tuple[int, ...] | None = None,
) -> ModelConfig:
    """The network that these tensors belong to; `run_name` is only asked for the number of heads.

    Raises:
      ValueError: it is neither the encoder nor the expression model; a tensor is missing.
    """
    if "embedToAct.1.weight" in tensors:
        return _activity_config(tensors, mixer_dilations)
    if any(name.startswith(("seq_encoder.", "pToExpr.")) for name in tensors):
        return _expression_config(tensors, run_name)
    some = ", ".join(list(tensors)[:3])
    raise ValueError(
        f"its tensors ({some}, ...) belong neither to the 256 bp encoder (embedToAct.*) nor to the "
        "expression model (seq_encoder.*, pToExpr.*)"
    )


def variables_of(tensors: Tensors, config: ModelConfig) -> Variables:
    """Our parameters and running statistics, in the tensors' dtype.

    Raises:
      ValueError: a tensor is missing, has another shape than `config` needs, or has no place.
    """
    taken = _Tensors(tensors)
    if isinstance(config, ActivityConfig):
        _take_activity(taken, config)
    else:
        _take_expression(taken, config)
    left = [name for name in tensors if name not in taken.used and not _UNUSED.fullmatch(name)]
    if left:
        raise ValueError(
            f"{len(left)} tensors have no place in the {config.kind} model, first {left[0]} of "
            f"shape {tensors[left[0]].shape}; it is a variant that is not known here"
        )
    expected = jax.tree.map(lambda leaf: leaf.shape, functional.shapes(config)._asdict())
    tree = taken.tree()
    if jax.tree.map(np.shape, tree) != expected:
        raise ValueError(f"its tensors do not fill the {config.kind} model {config}")
    return Variables(tree["params"], tree["stats"])


class _Tensors:
    """Takes tensors by name, checks their shape, and lays them out our way under a path of ours."""

    def __init__(self, tensors: Tensors):
        self.tensors = tensors
        self.used: set[str] = set()
        self.leaves: dict[str, np.ndarray] = {}

    def take(self, name: str, *shape: int) -> np.ndarray:
        """One tensor of the shape it must have."""
        if name not in self.tensors:
            raise ValueError(f"tensor {name} of shape {shape} is missing")
        found = self.tensors[name]
        if found.shape != shape:
            raise ValueError(f"tensor {name} has shape {found.shape}, expected {shape}")
        self.used.add(name)
        return found

    def put(self, path: str, value: np.ndarray) -> None:
        """Keeps a leaf of our tree, contiguous."""
        self.leaves[path] = np.ascontiguousarray(value)

    def linear(self, name: str, path: str, inputs: int, outputs: int, *ones: int) -> None:
        """A linear layer, or a convolution of width 1 that has `ones` as further axes."""
        kernel = self.take(f"{name}.weight", outputs, inputs, *ones)
        self.put(f"params/{path}/kernel", kernel.reshape(outputs, inputs).T)
        self.put(f"params/{path}/bias", self.take(f"{name}.bias", outputs))

    def conv(self, name: str, path: str, width: int, inputs: int, outputs: int) -> np.ndarray:
        """The kernel of a convolution; its bias is returned, for `bias` or `norm` to place."""
        kernel = self.take(f"{name}.weight", outputs, inputs, 1, width)
        self.put(f"params/{path}/kernel", kernel[:, :, 0].transpose(2, 1, 0))
        return self.take(f"{name}.bias", outputs)

    def norm(self, name: str | None, path: str, bias: np.ndarray) -> None:
        """A BatchNorm and the bias in front of it.

        `name` None stands for a file without that BatchNorm: one that adds the bias and is
        otherwise the identity, exactly so in evaluation.
        """
        size = len(bias)
        if name is None:
            one = np.ones_like(bias)
            values = (one, bias, np.zeros_like(bias), one - one.dtype.type(_NORM_EPSILON))
        else:
            fields = ("weight", "bias", "running_mean", "running_var")
            scale, shift, mean, var = (self.take(f"{name}.{field}", size) for field in fields)
            if (var < 0).any():
                raise ValueError(f"tensor {name}.running_var holds negative variances")
            values = (scale, shift, mean - bias, var)
        paths = ("params/{}/scale", "params/{}/bias", "stats/{}/mean", "stats/{}/var")
        for place, value in zip(paths, values, strict=True):
            self.put(place.format(path), value)

    def layer_norm(self, name: str, path: str, size: int) -> None:
        """A LayerNorm."""
        self.put(f"params/{path}/scale", self.take(f"{name}.weight", size))
        self.put(f"params/{path}/bias", self.take(f"{name}.bias", size))

    def tree(self) -> dict[str, Any]:
        """Nested dictionaries, keys sorted."""
        tree: dict[str, Any] = {"params": {}, "stats": {}}
        for path, leaf in sorted(self.leaves.items()):
            *branches, last = path.split("/")
            node = tree
            for branch in branches:
                node = node.setdefault(branch, {})
            node[last] = leaf
        return tree


def _steps(tensors: Tensors, prefix: str) -> list[tuple[str, str | None]]:
    """Layers of a sequence in order: the name of each, and of the BatchNorm right behind it."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.(weight|running_mean)")
    layers, norms = set(), set()
    for name in tensors:
        if match := pattern.fullmatch(name):
            index, field = int(match[1]), match[2]
            norms |= {index} if field == "running_mean" else set()
            layers |= {index} if field == "weight" else set()
    return [
        (f"{prefix}.{index}", f"{prefix}.{index + 1}" if index + 1 in norms else None)
        for index in sorted(layers - norms)
    ]


def _shape(tensors: Tensors, name: str, rank: int) -> tuple[int, ...]:
    if name not in tensors:
        raise ValueError(f"tensor {name} is missing")
    if tensors[name].ndim != rank:
        raise ValueError(f"tensor {name} has shape {tensors[name].shape}, expected {rank} axes")
    return tensors[name].shape


def _count(tensors: Tensors, prefix: str) -> int:
    """One more than the highest index that follows the prefix."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\..*")
    return max((int(m[1]) + 1 for m in map(pattern.fullmatch, tensors) if m), default=0)


def _encoder_config(tensors: Tensors, prefix: str) -> EncoderConfig:
    stem, _, _, width = _shape(tensors, f"{prefix}.stem_conv.0.weight", 4)
    blocks = (_count(tensors, f"{prefix}.conv_tower") + 1) // 2
    if not blocks:
        raise ValueError(f"tensor {prefix}.conv_tower.0.0.weight is missing")
    names = [f"{prefix}.conv_tower.{2 * index}.0.weight" for index in range(blocks)]
    return EncoderConfig(stem, width, tuple(_shape(tensors, name, 4)[0] for name in names))


def _activity_config(tensors: Tensors, mixer_dilations: tuple[int, ...] | None) -> ActivityConfig:
    encoder = _encoder_config(tensors, "encoder")
    shapes = [
        _shape(tensors, f"{name}.weight", 4) for name, _ in _steps(tensors, "encoder.conv_out")
    ]
    dilations = mixer_dilations or (1,) * len(shapes)
    if len(dilations) != len(shapes):
        raise ValueError(f"{len(shapes)} mixer convolutions, but {len(dilations)} dilations given")
    dense = [_shape(tensors, f"{name}.weight", 2) for name, _ in _steps(tensors, "embedToAct")]
    if len(dense) not in (1, 3):
        raise ValueError(f"embedToAct has {len(dense)} linear layers, expected 3 (or 1)")
    mixer_channels = tuple(shape[0] for shape in shapes)
    channels = (encoder.channels + mixer_channels)[-1]
    return ActivityConfig(
        encoder=encoder,
        window_bp=dense[0][1] // channels * encoder.stride,
        mixer_channels=mixer_channels,
        mixer_widths=tuple(shape[3] for shape in shapes),
        mixer_dilations=tuple(dilations),
        hidden=dense[0][0] if len(dense) == 3 else 0,
    )


def _expression_config(tensors: Tensors, run_name: str) -> ExpressionConfig:
    *convolutions, (pool, _) = _steps(tensors, "conv_out") or [("conv_out.12", None)]
    positions, length = _shape(tensors, f"{pool}.weight", 2)
    if length not in SUMMARY_DILATIONS:
        known = " or ".join(str(known) for known in SUMMARY_DILATIONS)
        raise ValueError(f"tensor {pool}.weight pools {length} positions, expected {known}")
    if len(convolutions) != 1 + len(SUMMARY_DILATIONS[length]):
        raise ValueError(f"conv_out has {len(convolutions)} convolutions, expected 4")
    outputs = _shape(tensors, f"{convolutions[-1][0]}.weight", 4)[0]
    width = outputs * positions
    layers = _count(tensors, "attn_encoder")
    if not layers:
        raise ValueError("tensor attn_encoder.0.self_attn.in_proj_weight is missing")
    hidden, head_inputs = _shape(tensors, "pToExpr.0.weight", 2)
    link_features = _shape(tensors, "add_pos_conv.0.weight", 3)[1] - width
    gene_features = head_inputs - width
    if not 0 <= link_features <= 3 or gene_features not in (8, 9):
        raise ValueError(
            f"{link_features} link features and {gene_features} gene features beside an embedding "
            f"of {width}; expected 0 to 3 and 8 or 9"
        )
    heads = re.search(r"\.(\d+)head\.", run_name)
    return ExpressionConfig(
        encoder=_encoder_config(tensors, "seq_encoder"),
        use_elements=link_features > 0,
        summary_channels=_shape(tensors, f"{convolutions[0][0]}.weight", 4)[0],
        summary_dilations=SUMMARY_DILATIONS[length],
        summary_outputs=outputs,
        summary_batch_norm=convolutions[0][1] is not None,
        embedding=width,
        heads=int(heads[1]) if heads else 4,
        layers=layers,
        hidden=hidden,
        link_features=link_features,
        gene_features=gene_features,
    )


def _take_encoder(taken: _Tensors, prefix: str, config: EncoderConfig) -> None:
    stem, width = config.stem_channels, config.stem_width
    bias = taken.conv(f"{prefix}.stem_conv.0", "encoder/stem", width, 4, stem)
    taken.put("params/encoder/stem/bias", bias)
    inputs = stem
    for index, outputs in enumerate(config.channels):
        conv, norm, residual = (f"{prefix}.conv_tower.{i}" for i in _tower_names(index))
        bias = taken.conv(conv, f"encoder/block_{index}/conv", 3, inputs, outputs)
        is_there = any(name.startswith(f"{norm}.") for name in taken.tensors)
        taken.norm(norm if is_there else None, f"encoder/block_{index}/norm", bias)
        taken.linear(residual, f"encoder/block_{index}/residual", outputs, outputs, 1, 1)
        inputs = outputs


def _tower_names(index: int) -> tuple[str, str, str]:
    return f"{2 * index}.0", f"{2 * index}.1", f"{2 * index + 1}.0"


def _take_activity(taken: _Tensors, config: ActivityConfig) -> None:
    _take_encoder(taken, "encoder", config.encoder)
    inputs = config.encoder.channels[-1]
    for index, (name, norm) in enumerate(_steps(taken.tensors, "encoder.conv_out")):
        outputs, width = config.mixer_channels[index], config.mixer_widths[index]
        bias = taken.conv(name, f"mixer/conv_{index}", width, inputs, outputs)
        taken.norm(norm, f"mixer/norm_{index}", bias)
        inputs = outputs
    positions = config.window_bp // config.encoder.stride
    *hidden, (last, _) = _steps(taken.tensors, "embedToAct")
    width = inputs * positions
    for index, (name, norm) in enumerate(hidden):
        kernel = taken.take(f"{name}.weight", config.hidden, width)
        if index == 0:
            kernel = _position_major(kernel, inputs)
        taken.put(f"params/head/dense_{index}/kernel", kernel.T)
        bias = taken.take(f"{name}.bias", config.hidden)
        taken.norm(norm, f"head/norm_{index}", bias)
        width = config.hidden
    kernel = taken.take(f"{last}.weight", 1, width)
    kernel = kernel if hidden else _position_major(kernel, inputs)
    taken.put("params/head/output/kernel", kernel.T)
    taken.put("params/head/output/bias", taken.take(f"{last}.bias", 1))


def _position_major(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Columns from channel * positions + position to position * channels + channel (spec 8.4)."""
    outputs = kernel.shape[0]
    return kernel.reshape(outputs, channels, -1).swapaxes(1, 2).reshape(outputs, -1)


def _take_expression(taken: _Tensors, config: ExpressionConfig) -> None:
    _take_encoder(taken, "seq_encoder", config.encoder)
    *convolutions, (pool, _) = _steps(taken.tensors, "conv_out")
    inputs, width = config.encoder.channels[-1], config.embedding
    for index, (name, norm) in enumerate(convolutions):
        is_last = index == len(convolutions) - 1
        outputs = config.summary_outputs if is_last else config.summary_channels
        bias = taken.conv(name, f"summary/conv_{index}", 1 if is_last else 3, inputs, outputs)
        if config.summary_batch_norm:
            taken.norm(norm, f"summary/norm_{index}", bias)
        else:
            taken.put(f"params/summary/conv_{index}/bias", bias)
        inputs = outputs
    taken.linear(pool, "summary/pool", config.summary_length, width // config.summary_outputs)
    if config.link_features:
        inputs = width + config.link_features
        taken.linear("add_pos_conv.0", "fusion/first", inputs, width, 1)
        taken.linear("add_pos_conv.2", "fusion/second", width, width, 1)
    else:  # in the file, but the original passes them by
        for name in ("add_pos_conv.0", "add_pos_conv.2"):
            taken.take(f"{name}.weight", width, width, 1)
            taken.take(f"{name}.bias", width)
    for index in range(config.layers):
        _take_interaction(taken, f"attn_encoder.{index}", f"interaction_{index}", width)
    taken.linear("pToExpr.0", "head/dense_0", width + config.gene_features, config.hidden)
    taken.linear("pToExpr.2", "head/dense_1", config.hidden, config.hidden)
    taken.linear("pToExpr.4", "head/output", config.hidden, 1)


def _take_interaction(taken: _Tensors, name: str, path: str, width: int) -> None:
    kernels = taken.take(f"{name}.self_attn.in_proj_weight", 3 * width, width)
    biases = taken.take(f"{name}.self_attn.in_proj_bias", 3 * width)
    for index, part in enumerate(("query", "key", "value")):
        rows = slice(index * width, (index + 1) * width)
        taken.put(f"params/{path}/{part}/kernel", kernels[rows].T)
        taken.put(f"params/{path}/{part}/bias", biases[rows])
    taken.linear(f"{name}.self_attn.out_proj", f"{path}/out", width, width)
    taken.layer_norm(f"{name}.norm1", f"{path}/norm_attention", width)
    taken.layer_norm(f"{name}.norm2", f"{path}/norm_mlp", width)
    taken.linear(f"{name}.ff.0", f"{path}/expand", width, 4 * width)
    taken.linear(f"{name}.ff.2", f"{path}/contract", 4 * width, width)
