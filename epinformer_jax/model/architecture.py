"""Shapes of the networks, as frozen dataclasses: hashable, so they can be static under jit and live
in checkpoints.

Defaults are the published networks (spec sections 1.1, 1.2, 1.4). Dimension letters: B genes in a
batch, S slots (1 + elements, slot 0 is the promoter), N rows (sequences), L bases, A alphabet (ACGT
= 4), C channels, D embedding, H heads, P link features, G gene features, K interaction layers.
"""

import dataclasses
from typing import Any, Literal

Statistics = Literal["padded", "real"]
Pool = Literal["flatten", "mean"]
Strands = Literal["forward", "both"]


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The shared convolutional encoder: a stem, then blocks that each halve the length."""

    stem_channels: int = 256
    stem_width: int = 8
    channels: tuple[int, ...] = (128, 64, 64, 128)

    @property
    def stride(self) -> int:
        """Bases per output position."""
        return 2 ** len(self.channels)

    @property
    def reach_bp(self) -> int:
        """Bases beyond an element's ends whose response can differ from that of all-zero DNA
        (either side, at most).
        """
        return self.stem_width // 2 + self.stride - 1

    @property
    def edge_bp(self) -> int:
        """Bases at either end of a row of all-zero DNA whose answer is not that of the middle, and
        the next position: a multiple of the stride.
        """
        return -(-(self.reach_bp + self.stride) // self.stride) * self.stride

    @property
    def gap_bp(self) -> int:
        """Bases between two windows on a track, so that no position of the first block sees both: a
        multiple of the stride.
        """
        return -(-(self.stem_width + 2) // self.stride) * self.stride


@dataclasses.dataclass(frozen=True)
class ActivityConfig:
    """The 256 bp activity model: encoder, then two hidden layers (spec 1.2).

    Two released variants differ: `hidden` 0 is a single linear map, and `mixer_*` are convolutions
    between encoder and head that keep the length.

    Not published, for small data sets: `pool` mean gives the head each channel's mean over
    positions instead of every position, so that a motif counts the same wherever it stands;
    `encoder_dropout` acts on what leaves the encoder, in training; with `strands` both, evaluation
    is the mean of a sequence and its reverse complement.
    """

    encoder: EncoderConfig = EncoderConfig()
    window_bp: int = 256
    mixer_channels: tuple[int, ...] = ()
    mixer_widths: tuple[int, ...] = ()
    mixer_dilations: tuple[int, ...] = ()
    hidden: int = 256
    dropout: float = 0.1
    pool: Pool = "flatten"
    encoder_dropout: float = 0.0
    strands: Strands = "forward"
    compute_dtype: str = "float32"
    kind: Literal["activity"] = "activity"

    def __post_init__(self):
        if self.window_bp % self.encoder.stride:
            raise ValueError(
                f"activity window_bp={self.window_bp} is not a multiple of the encoder's stride "
                f"{self.encoder.stride}"
            )
        if not len(self.mixer_channels) == len(self.mixer_widths) == len(self.mixer_dilations):
            raise ValueError(
                f"mixer_channels={self.mixer_channels}, mixer_widths={self.mixer_widths} and "
                f"mixer_dilations={self.mixer_dilations} must have one entry for each convolution"
            )


@dataclasses.dataclass(frozen=True)
class ExpressionConfig:
    """The expression model (spec 1.4).

    `slots` counts the promoter: 61 in the published network. With `use_elements` False (the
    promoter preset) every slot but the promoter's is taken as empty.

    `statistics` says what BatchNorm sees in training: `padded` counts every empty slot and every
    base outside an element as all-zero DNA, as the published training does; `real` counts only
    positions that hold DNA of a real element.
    """

    encoder: EncoderConfig = EncoderConfig()
    window_bp: int = 2000
    slots: int = 61
    use_elements: bool = True
    summary_channels: int = 64
    summary_dilations: tuple[int, ...] = (2, 4, 6)
    summary_outputs: int = 32
    summary_batch_norm: bool = True
    embedding: int = 64
    heads: int = 4
    layers: int = 3
    hidden: int = 128
    link_features: int = 3
    gene_features: int = 9
    statistics: Statistics = "padded"
    compute_dtype: str = "float32"
    kind: Literal["expression"] = "expression"

    @property
    def tower_length(self) -> int:
        """Positions that leave the encoder for one window."""
        return self.window_bp // self.encoder.stride

    @property
    def summary_length(self) -> int:
        """Positions left after the dilated convolutions."""
        return self.tower_length - 2 * sum(self.summary_dilations)

    def geometry(self, shift_bp: int = 0) -> dict[str, int]:
        """What laying sequences out has to know (fields of data.layouts.Geometry), where they move
        by up to `shift_bp` bases.
        """
        return {
            "window_bp": self.window_bp,
            "stride": self.encoder.stride,
            "margin_bp": self.encoder.reach_bp + shift_bp,
            "gap_bp": self.encoder.gap_bp,
            "reach": 2 * sum(self.summary_dilations),
        }

    def __post_init__(self):
        if self.window_bp % self.encoder.stride:
            raise ValueError(
                f"window_bp={self.window_bp} is not a multiple of the encoder's stride "
                f"{self.encoder.stride}"
            )
        if self.summary_length < 1:
            raise ValueError(
                f"window_bp={self.window_bp} leaves {self.tower_length} positions after the "
                "encoder, but dilations "
                f"{self.summary_dilations} need more than {2 * sum(self.summary_dilations)}; "
                "widen the window"
            )
        if self.embedding % self.summary_outputs or self.embedding % self.heads:
            raise ValueError(
                f"embedding={self.embedding} must be a multiple of "
                f"summary_outputs={self.summary_outputs} "
                f"and of heads={self.heads}"
            )


ModelConfig = ActivityConfig | ExpressionConfig


def to_dict(config: ModelConfig) -> dict[str, Any]:
    """A JSON-ready dictionary; `from_dict` is its inverse."""
    return dataclasses.asdict(config)


def from_dict(fields: dict[str, Any]) -> ModelConfig:
    """The configuration written by `to_dict`.

    Raises:
      ValueError: unknown `kind`, or a field the configuration does not have.
    """
    kinds = {"activity": ActivityConfig, "expression": ExpressionConfig}
    if fields.get("kind") not in kinds:
        raise ValueError(f"model kind {fields.get('kind')!r} is not one of {sorted(kinds)}")
    return _build(kinds[fields["kind"]], fields)


def _build(cls, fields):
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = set(fields) - known
    if unknown:
        raise ValueError(
            f"{cls.__name__} has no field {sorted(unknown)}; known fields are {sorted(known)}"
        )
    values = {}
    for name, value in fields.items():
        if name == "encoder" and isinstance(value, dict):
            value = _build(EncoderConfig, value)
        values[name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)
