"""Gradient x input, integrated gradients and the rescale rule, on rows of sequences.

All three give multipliers m at each base and compare with a reference r: the contribution of a base
is m . (base - r), and the hypothetical contribution of base b at that place is m . (b - r). Known
bases differ from their reference; unknown bases and padding are the same in both, so theirs is 0.

Rows are one-hot at one window width, cropped as in model/encoder.py. Every batch has the same
number of rows, so each width is compiled once.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from tqdm import tqdm

from epinformer_jax.analysis import slots
from epinformer_jax.analysis.ensembles import Model
from epinformer_jax.analysis.shuffle import dinucleotide_shuffles
from epinformer_jax.analysis.slots import Slots
from epinformer_jax.data import sequence
from epinformer_jax.data.loader import GeneSet
from epinformer_jax.model import functional, packing, tracks
from epinformer_jax.model.architecture import ModelConfig
from epinformer_jax.model.encoder import full_rows
from epinformer_jax.model.functional import Variables
from epinformer_jax.model.rescale import rescale

Method = Literal["gradient", "integrated", "rescale"]
Reference = Literal["shuffled", "uniform", "zeros"]
METHODS = ("gradient", "integrated", "rescale")
REFERENCES = ("shuffled", "uniform", "zeros")
POSITIONS_AT_ONCE = 1 << 16  # bases in one batch: bounds memory
_LEVELS = {"uniform": 0.25, "zeros": 0.0}

Codes = UInt8[np.ndarray, "_"]


class Job(NamedTuple):
    """How attributions are computed: `shuffles` references a sequence where they are shuffled,
    `steps` points on each path of integrated gradients.
    """

    method: Method
    reference: Reference
    shuffles: int
    steps: int
    seed: int


class Genes(NamedTuple):
    """Genes of an expression model: everything about them but the slot that is looked at."""

    data: GeneSet
    embedded: list[slots.Embedded]


class Place(NamedTuple):
    """A sequence's gene (row of `Genes`) and slot; -1, -1 for an activity model."""

    gene: int = -1
    slot: int = -1


class Found(NamedTuple):
    """For each sequence its hypothetical contributions, prediction, and mean prediction of its
    references.
    """

    hypothetical: list[Float[np.ndarray, "_ 4"]]
    prediction: Float[np.ndarray, "N"]
    reference: Float[np.ndarray, "N"]


class _Rows(NamedTuple):
    """Rows of one sequence: points on the way from a reference to it, and what they count."""

    region: Int[np.ndarray, "R"]
    bases: Float[np.ndarray, "R W A"]
    reference: Float[np.ndarray, "R W A"]
    alpha: Float[np.ndarray, "R"]
    weight: Float[np.ndarray, "R"]
    share: Float[np.ndarray, "R"]
    place: Int[np.ndarray, "R two"]


def attribute(
    model: Model,
    codes: Sequence[Codes],
    references: Sequence[UInt8[np.ndarray, "K _"]],
    job: Job,
    *,
    genes: Genes | None = None,
    places: Sequence[Place] = (),
    bar: tqdm,
) -> Found:
    """Attributions of sequences by one model; `references` are those of `reference_codes`.

    `bar` counts sequences x references.
    """
    config = model.info.model
    unknown = model.info.unknown_base
    variables = model.variables
    context = None if genes is None else _context(genes, max(len(genes.embedded), 1))
    step = _step(config, job.method == "rescale")
    hypothetical = [np.zeros((len(own), 4)) for own in codes]
    prediction, reference = np.zeros(len(codes)), np.zeros(len(codes))
    widths = [_width(config, len(own)) for own in codes]
    for width in sorted(set(widths)):
        chosen = [i for i, own in enumerate(widths) if own == width]
        first = [_first(config, width, len(codes[i])) for i in range(len(codes))]
        blocks = (
            block
            for i in chosen
            for block in _blocks(i, codes[i], references[i], first[i], width, unknown, job, places)
        )
        for rows, batch in _batches(blocks, width, bar):
            points = (batch.bases, batch.reference, batch.alpha)
            given = () if context is None else (context, batch.place)
            values, reference_values, multipliers = jax.device_get(step(variables, *points, *given))
            against = np.sum(multipliers * batch.reference, axis=-1, keepdims=True)
            scores = (multipliers - against) * batch.weight[:, None, None]
            for row in range(rows):
                i = batch.region[row]
                inside = slice(first[i], first[i] + len(codes[i]))
                hypothetical[i] += scores[row, inside]
                if batch.alpha[row] == 1:
                    prediction[i] = values[row]
                reference[i] += reference_values[row] * batch.share[row]
    for own, scores in zip(codes, hypothetical, strict=True):
        scores[own == sequence.UNKNOWN] = 0
    return Found(hypothetical, prediction, reference)


def reference_codes(
    codes: Sequence[Codes], job: Job, *, first: int = 0
) -> list[UInt8[np.ndarray, "K _"]]:
    """The references of each sequence: its shuffles, or itself where the level is constant.

    `first` is the number of the first sequence: each has its own draw.
    """
    if job.reference != "shuffled":
        return [own[None] for own in codes]
    return [
        dinucleotide_shuffles(own, job.shuffles, np.random.default_rng((job.seed, first + i)))
        for i, own in enumerate(codes)
    ]


def nodes(job: Job) -> tuple[Float[np.ndarray, "T"], Float[np.ndarray, "T"]]:
    """Where the path is evaluated, from 0 (reference) to 1, and with which weight.

    Integrated gradients use the Gauss-Legendre rule: exact for polynomials, and dense at the ends.
    """
    if job.method != "integrated":
        return np.ones(1), np.ones(1)
    points, weights = np.polynomial.legendre.leggauss(job.steps)
    return (points + 1) / 2, weights / 2


def _context(genes: Genes, size: int) -> Slots:
    count = max((len(own.embeddings) for own in genes.embedded), default=1)
    return slots.slots_of(genes.data, np.arange(len(genes.data)), genes.embedded, size, count)


def _width(config: ModelConfig, length: int) -> int:
    """The window a sequence is cropped to: a quarter, a half or all of the model's."""
    window, step = config.window_bp, 2 * config.encoder.stride
    if config.kind == "activity":
        return window
    needed = length + 2 * config.encoder.reach_bp + 1
    for share in (4, 2):
        width = window - (window - window // share) // step * step
        if needed <= width <= window - 2 * config.encoder.edge_bp:
            return width
    return window


def _first(config: ModelConfig, width: int, length: int) -> int:
    """Where a sequence begins in a window of this width: centred in the model's, as published."""
    return config.window_bp // 2 - length // 2 - (config.window_bp - width) // 2


def _blocks(i, codes, references, first, width, unknown, job: Job, places) -> Iterator[_Rows]:
    """All rows of one sequence, a block for each of its references."""
    bases = sequence.one_hot(codes, unknown=unknown)
    alpha, weight = nodes(job)
    share = np.ones(len(alpha))  # of the row's reference value in the mean over references
    if job.method == "gradient":
        alpha, weight, share = np.array([1.0, 0]), np.array([1.0, 0]), np.array([0.0, 1])
    elif job.method == "integrated":
        share = np.append(0 * share, (1, 0))
        alpha, weight = np.append(alpha, (0, 1)), np.append(weight, (0, 0))
    count, rows = len(references), len(alpha)
    inside = slice(first, first + len(codes))
    place = np.tile(np.array(places[i] if places else Place(), np.int32), (rows, 1))
    for own in references:
        ground = sequence.one_hot(own, unknown=unknown)
        if job.reference != "shuffled":
            ground = np.where((codes != sequence.UNKNOWN)[:, None], _LEVELS[job.reference], ground)
        window = np.zeros((2, rows, width, 4), np.float32)
        window[0, :, inside], window[1, :, inside] = bases, ground
        alphas, weights, shares = alpha.astype(np.float32), weight / count, share / count
        yield _Rows(np.full(rows, i), window[0], window[1], alphas, weights, shares, place)


def _batches(blocks: Iterator[_Rows], width: int, bar: tqdm) -> Iterator[tuple[int, _Rows]]:
    """Rows of many sequences in batches of one size; the last one repeats a row that counts 0."""
    size = max(8, POSITIONS_AT_ONCE // width)
    waiting: list[_Rows] = []
    for block in blocks:
        waiting.append(block)
        while sum(len(rows.alpha) for rows in waiting) >= size:
            joined = _Rows(*(np.concatenate(parts) for parts in zip(*waiting, strict=True)))
            yield size, _Rows(*(part[:size] for part in joined))
            waiting = [_Rows(*(part[size:] for part in joined))]
        bar.update(1)
    rest = sum(len(rows.alpha) for rows in waiting)
    if rest:
        joined = _Rows(*(np.concatenate(parts) for parts in zip(*waiting, strict=True)))
        index = np.minimum(np.arange(size), rest - 1)
        yield rest, _Rows(*(part[index] for part in joined))


@functools.lru_cache(maxsize=16)
def _step(config: ModelConfig, is_rescale: bool):
    """(variables, bases, reference, alpha, context, place) -> value, reference's value,
    multipliers. A path's values are those of its own points: only at alpha 0 the reference's.
    """

    def of_pairs(variables, bases, reference, alpha):
        found = rescale(config, variables, bases, reference)
        return found.value, found.reference_value, found.multipliers

    def of_points(variables, bases, reference, alpha, *context):
        point = reference + alpha[:, None, None] * (bases - reference)

        def total(point):
            values = _values(config, variables, point, *context)
            return jnp.sum(values), values

        multipliers, values = jax.grad(total, has_aux=True)(point)
        return values, values, multipliers

    return jax.jit(of_pairs if is_rescale else of_points)


def _values(
    config: ModelConfig,
    variables: Variables,
    bases: Float[Array, "N W A"],
    context: Slots | None = None,
    place: Int[Array, "N two"] | None = None,
) -> Float[Array, "N"]:
    """Activity of each row, or expression of its gene with the row in its slot."""
    count, width = bases.shape[:2]
    if context is None or place is None:
        return functional.activity(config, variables, bases, jnp.ones((count, width), bool))
    module = functional.bind(config, variables)
    if width == config.window_bp:
        own = module.embed(full_rows(bases))
    else:
        alone, laid = tracks.alone(config, bases)
        own = packing.embed_bases(module, alone, laid, unknown=0.0)
    genes = jax.tree.map(lambda leaf: leaf[place[:, 0]], context)
    embeddings = genes.embeddings.at[jnp.arange(count), place[:, 1]].set(own)
    return module.interact(embeddings, *genes[1:])[0]
