"""What answers for a model's first block: its layers, taps or a table of k-mers (model/kmers.py).

A command asks with what it has to compute; whoever knows better says so (`--kmer-table`).
"""

import argparse
import functools
import time
from typing import Literal, NamedTuple

import jax
from absl import logging

from epinformer_jax.analysis.ensembles import Model
from epinformer_jax.model import functional, kmers
from epinformer_jax.model.architecture import EncoderConfig, ExpressionConfig, ModelConfig
from epinformer_jax.model.kmers import Table, Taps

KmerTable = Literal["auto", "on", "small", "off"]
CHOICES = ("auto", "on", "small", "off")
# Measured on two cores: bases that taps encode while a table of 4^11 k-mers is made, beyond what
# the table itself takes for them.
TABLE_BASES = 20_000_000
TAPS_BASES = 10_000  # a gene: taps take as long to make as 150,000 bases, and serve later calls too


def add_argument(parser: argparse.ArgumentParser) -> None:
    """The option --kmer-table."""
    parser.add_argument(
        "--kmer-table",
        choices=CHOICES,
        default="auto",
        help="what answers for a model's first layers: on: a table of all 11-mers, 3.2 GB and "
        "seconds to make; small: tables of 8-mers, 180 MB; off: the layers; auto: what is fastest "
        "for so many bases, if memory allows (default: auto)",
    )


def choose(model: Model, bases: int, wanted: str) -> Table | Taps | None:
    """What answers for a model's first block where `bases` to encode are worth it: `on` the table
    of its k-mers, `small` taps (model/kmers.py), `off` the layers.

    `auto` takes what is fastest, the table only if half of the free memory is enough for it; on
    accelerators, whose convolutions are faster, no taps.

    Raises:
      ValueError: `wanted` is unknown, or a table is wanted of a network that can have none.
    """
    if wanted not in CHOICES:
        raise ValueError(f"kmer_table={wanted!r} is unknown; known are {', '.join(CHOICES)}")
    config = model.info.model
    if wanted == "auto":
        wanted = _fastest(model, bases)
    if wanted == "off":
        return None
    if wanted == "small":
        return _taps(config, _Same(model.variables))
    started = time.monotonic()
    table = jax.block_until_ready(kmers.build(config, model.variables))
    logging.info(
        "%s: k-mer table of %d rows, %.1f GB, made in %.1f s; %.1f million bases are encoded by it",
        model.name,
        len(table.values),
        table.values.nbytes / 1e9,
        time.monotonic() - started,
        bases / 1e6,
    )
    return table


class _Same(NamedTuple):
    """Weights as a key: equal to themselves alone."""

    variables: functional.Variables

    def __hash__(self) -> int:
        return id(self.variables)

    def __eq__(self, other) -> bool:
        return self.variables is other.variables


@functools.lru_cache(maxsize=2)
def _taps(config: ModelConfig, weights: _Same) -> Taps:
    """Taps of the models that were asked last, 180 MB each."""
    return kmers.build_taps(config, weights.variables)


def _fastest(model: Model, bases: int) -> str:
    encoder = model.info.model.encoder
    if encoder.stem_width < 2:
        return "off"
    share = _first_block(encoder) / _first_block(ExpressionConfig().encoder)
    if kmers.has_table(encoder) and bases > TABLE_BASES * share:
        needed = kmers.table_bytes(encoder)
        if 2 * needed <= _free_bytes():
            return "on"
        logging.info(
            "%s: no k-mer table: it takes %.1f GB, more than half of the free memory "
            "(--kmer-table on builds it all the same)",
            model.name,
            needed / 1e9,
        )
    is_cpu = jax.default_backend() == "cpu"
    return "small" if is_cpu and bases > TAPS_BASES * share else "off"


def _first_block(encoder: EncoderConfig) -> int:
    """The first block's answers to all k-mers: how long tables take to make goes with them."""
    return kmers.DIGITS**encoder.stem_width * encoder.channels[0]


def _free_bytes() -> float:
    """Free memory of the device, as far as it says."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    try:
        with open("/proc/meminfo") as lines:
            sizes = dict(line.split(":") for line in lines)
        return 1024 * float(sizes["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return float("inf")
