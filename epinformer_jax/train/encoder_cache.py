"""The output of a frozen encoder for every distinct sequence, on disk while a fold trains.

A frozen encoder in evaluation mode answers each sequence alike in every epoch, so the answers (the
*towers*, model/cached.py) are computed once, kept in memory-mapped files, and gathered into
batches. Training is the same, step by step, without the encoder's share of the work. The files are
named by a digest of weights, sequences and settings, appear whole or not at all, serve a run that
goes on, and are deleted when the fold is done. Their size: `window / stride * channels * 4` bytes a
sequence and strand, about 4 GB for a published fold of K562; half of it as bfloat16, which rounds
each value to 3 significant digits.
"""

import dataclasses
import functools
import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Float, Int

from epinformer_jax.data import atomic, batches, layouts
from epinformer_jax.data.batches import Batch, Sequences
from epinformer_jax.data.layouts import Plan
from epinformer_jax.data.loader import Stream
from epinformer_jax.model import architecture, cached, functional
from epinformer_jax.model.functional import Variables
from epinformer_jax.model.tracks import Placed, Tracks
from epinformer_jax.train import checkpoint, devices, tasks
from epinformer_jax.train.progress_bar import progress_bar

MANIFEST = atomic.MARKER
FORMAT = 2
POSITIONS_A_CALL = 2**17  # bases that go through the encoder at once while towers are made
LAYOUTS = 16  # of batches behind the encoder, quickly compiled; one where the plan has one


class Distinct(NamedTuple):
    """The distinct sequences of a set of genes.

    Attributes:
      codes: each sequence once, in order of first appearance.
      index: for all sequences of all genes, one after another, their place in `codes`.
      first: where each gene's sequences begin in `index`; one entry more than there are genes.
    """

    codes: list[np.ndarray]
    index: Int[np.ndarray, "M"]
    first: Int[np.ndarray, "G"]


def distinct(sequences: list[Sequences]) -> Distinct:
    """Finds sequences that genes share."""
    codes, index, seen = [], [], {}
    for gene in sequences:
        for sequence in gene.codes:
            digest = hashlib.blake2b(sequence.tobytes(), digest_size=16).digest()
            if digest not in seen:
                seen[digest] = len(codes)
                codes.append(sequence)
            index.append(seen[digest])
    first = np.concatenate([[0], np.cumsum([len(gene.codes) for gene in sequences])])
    return Distinct(codes, np.array(index, np.int64), first)


class EncoderCache:
    """Towers of all sequences of a gene set under one frozen encoder.

    Nothing is computed before `open`. Both strands are kept where training draws them.
    """

    def __init__(
        self,
        objective: tasks.Objective,
        variables: Variables,
        sequences: list[Sequences],
        plan: Plan,
        directory: Path,
        *,
        dtype: str = "float32",
        mesh: Mesh | None = None,
    ):
        self.directory = Path(directory)
        self._objective, self._variables, self._plan = objective, variables, plan
        self._dtype = jnp.dtype(dtype)
        self._mesh = mesh or devices.all_devices()
        self._distinct = distinct(sequences)
        self._lengths = np.array([len(codes) for codes in self._distinct.codes])
        self._behind = layouts.make_plan(
            [gene.lengths for gene in sequences],
            geometry=plan.geometry,
            batch_size=plan.batch_size,
            slots=plan.slots,
            layouts=LAYOUTS if len(plan.layouts) > 2 else 1,
            by="places",
        )
        self._width = plan.geometry.widths(self._lengths)
        # a file holds the background first, then each sequence's window
        ends = plan.geometry.blocks + np.cumsum(self._width)
        self._place, self._count = ends - self._width, int(ends[-1])
        self._strands = ("forward", "reverse") if objective.flip else ("forward",)
        self._towers: dict[str, np.ndarray] | None = None

    @property
    def is_open(self) -> bool:
        """Whether towers can be read."""
        return self._towers is not None

    @property
    def size_bytes(self) -> int:
        """What the files take."""
        return math.prod(self._shape) * len(self._strands) * self._dtype.itemsize

    def open(self) -> None:
        """Maps the towers, which are made now unless an earlier start has left them.

        Raises:
          OSError: they cannot be written.
        """
        if self.is_open:
            return
        folder = self.directory / self._key()
        if not self._is_whole(folder):
            shutil.rmtree(self.directory, ignore_errors=True)  # of other weights, or damaged
            self.directory.mkdir(parents=True)
            with atomic.atomic_directory(folder) as partial:
                self._write(partial)
        else:
            logging.info("%s: the encoder's outputs are there already", folder)
        self._towers = {
            strand: _map(folder / _file(strand), self._shape, self._dtype)
            for strand in self._strands
        }

    def delete(self) -> None:
        """Closes the files and removes them."""
        self._towers = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def with_towers(self, batch: Batch, genes: Int[np.ndarray, "N"]) -> Batch:
        """A packed batch of these genes with towers in place of bases (fields of CachedGenes), in a
        layout of its own.
        """
        index, first = self._distinct.index, self._distinct.first
        sequences = np.concatenate([index[first[gene] : first[gene + 1]] for gene in genes])
        layout, members = self._behind.deal(self._lengths[sequences], by="places")
        laid, rows = batches.lay_places(
            self._plan.geometry, self._width[sequences], layout, members
        )
        # what is nobody's, or beside a window, is the background, which a file begins with
        place = np.append(self._place[sequences], 0)[np.minimum(laid["row"], len(sequences))]
        source = np.where(laid["block"] >= 0, place + laid["block"], laid["position"])
        towers = {strand: self._towers[strand][source] for strand in self._strands}
        geometry, room = self._plan.geometry, layout.rows - len(sequences)
        rows["start"] = (geometry.blocks - self._width[sequences]) // 2 * geometry.stride
        return {
            **{name: value for name, value in batch.items() if name not in ("tracks", "placed")},
            "towers": {
                "tower": towers["forward"],
                "other_strand": towers.get("reverse"),
                "row": laid["row"],
                "position": laid["position"],
            },
            "background": self._towers["forward"][: geometry.blocks],
            **{name: np.pad(values.astype(np.int32), (0, room)) for name, values in rows.items()},
            "row_weight": np.pad(np.ones(len(sequences), np.float32), (0, room)),
        }

    def _key(self) -> str:
        objective = self._objective
        encoder = checkpoint.flatten(
            {"p": self._variables.params["encoder"], "s": self._variables.stats["encoder"]}
        )
        sequences = hashlib.sha256()
        for codes in self._distinct.codes:
            sequences.update(len(codes).to_bytes(8, "little") + codes.tobytes())
        content = {
            "format": FORMAT,
            "weights": {path: _digest(leaf) for path, leaf in sorted(encoder.items())},
            "sequences": sequences.hexdigest(),
            "model": architecture.to_dict(objective.model),
            "geometry": dataclasses.asdict(self._plan.geometry),
            "unknown_base": objective.unknown_base,
            "dtype": self._dtype.name,
            "strands": list(self._strands),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def _shape(self) -> tuple[int, int]:
        return self._count, self._objective.model.encoder.channels[-1]

    def _is_whole(self, folder: Path) -> bool:
        """Whether all files are there with the bytes that were written."""
        if not (folder / MANIFEST).is_file():
            return False
        stated = json.loads((folder / MANIFEST).read_text())["sha256"]
        for name, digest in stated.items():
            if not (folder / name).is_file() or _digest_of_file(folder / name) != digest:
                logging.warning("%s: damaged or missing; made again", folder / name)
                return False
        return True

    def _write(self, folder: Path) -> None:
        encode = _encode(self._objective.model, self._objective.unknown_base)
        variables = devices.put_replicated(self._variables, self._mesh)
        total = len(self._distinct.codes) * len(self._strands)
        with progress_bar("encoder, once", total, "seq") as bar:
            for strand in self._strands:
                towers = _map(folder / _file(strand), self._shape, self._dtype, mode="w+")
                for members, batch in self._calls():
                    put = devices.put_batch(batch, self._mesh)
                    found, background = encode(variables, put, strand == "reverse")
                    found = np.asarray(found.astype(self._dtype))
                    towers[: len(background)] = np.asarray(background.astype(self._dtype))
                    widths, placed = self._width[members], batch["placed"]
                    block = np.arange(widths.sum()) - np.repeat(np.cumsum(widths) - widths, widths)
                    low = placed["low"][: len(members)] // self._plan.geometry.stride
                    track = np.repeat(placed["track"][: len(members)], widths)
                    place = np.repeat(self._place[members], widths) + block
                    towers[place] = found[track, np.repeat(low, widths) + block]
                    bar.update(len(members))
                del towers
        stated = {
            _file(strand): _digest_of_file(folder / _file(strand)) for strand in self._strands
        }
        (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "sha256": stated}) + "\n")

    def _calls(self) -> Iterator[tuple[Int[np.ndarray, "N"], Batch]]:
        """Which sequences a call encodes, and their batch: tracks, one on each device."""
        geometry = self._plan.geometry
        size = self._mesh.size
        for own in layouts.track_batches(
            self._lengths, geometry=geometry, positions=POSITIONS_A_CALL // size, tracks=size
        ):
            codes = [self._distinct.codes[i] for i in own.members]
            yield own.members, batches.pack_tracks(geometry, codes, own.layout, own.dealt)


@dataclasses.dataclass(frozen=True)
class CachedExamples:
    """Examples whose training batches hold towers; the others too, as soon as there are any.

    `examples` is any loop.Examples whose stream packs genes of the cache by their index.
    """

    examples: Any
    cache: EncoderCache

    @property
    def labels(self) -> Float[np.ndarray, "N"]:
        """The measured value of each example."""
        return self.examples.labels

    def stream(self, indices: Int[np.ndarray, "N"], *, shuffle: bool) -> Stream:
        """Batches of these examples."""
        plain = self.examples.stream(indices, shuffle=shuffle)
        if not shuffle and not self.cache.is_open:
            return plain  # a finished fold is predicted without making the towers

        def pack(chosen):
            return self.cache.with_towers(plain.pack(chosen), chosen)

        return _CachedStream(plain.order, pack, plain.steps_per_epoch, self.cache)


@dataclasses.dataclass(frozen=True)
class _CachedStream(Stream):
    cache: EncoderCache

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Opens the cache before the first batch, in the caller's thread."""
        self.cache.open()
        yield from super().batches(first, last)


def obstacle(
    setting: str, objective: tasks.Objective, cache: EncoderCache, *, at_once: int = 1
) -> str:
    """Why an encoder's outputs cannot be cached; "" when they can, or `setting` is off anyway.

    `at_once` such caches must find room, those of folds that train side by side.

    Raises:
      ValueError: `setting` is `on`, and they cannot.
    """
    reason = _obstacle(objective, cache, at_once)
    if reason and setting == "on":
        raise ValueError(
            f"config.train.encoder_cache='on', but {reason}; set it to auto or off, or mend that"
        )
    return reason


def _obstacle(objective: tasks.Objective, cache: EncoderCache, at_once: int) -> str:
    if objective.encoder != "frozen":
        return f"the encoder is {objective.encoder}, which changes its outputs: it must be frozen"
    if objective.shift_bp:
        return f"sequences move by up to {objective.shift_bp} bases in training (data.shift_bp)"
    parent = next(folder for folder in cache.directory.parents if folder.exists())
    free = shutil.disk_usage(parent).free
    needed = at_once * cache.size_bytes
    if needed > 0.9 * free:
        whose = "the cache needs" if at_once == 1 else f"the caches of {at_once} folds at once need"
        return f"{whose} {needed / 1e9:.1f} GB and {parent} has {free / 1e9:.1f} GB left"
    return ""


@functools.lru_cache(maxsize=4)
def _encode(model: architecture.ExpressionConfig, unknown: float):
    def encode(variables, batch, other_strand):
        bound = functional.bind(model, variables)
        laid, placed = Tracks(**batch["tracks"]), Placed(**batch["placed"])
        return cached.towers(bound, laid, placed, unknown=unknown, other_strand=other_strand)

    return jax.jit(encode, static_argnums=2)


def _file(strand: str) -> str:
    return f"{strand}.bin"


def _digest(leaf) -> str:
    leaf = np.ascontiguousarray(leaf)
    return hashlib.sha256(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes()).hexdigest()


def _digest_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _map(path: Path, shape: tuple[int, int], dtype: np.dtype, mode: str = "r") -> np.ndarray:
    """A file as an array, bfloat16 as the 16-bit integers that NumPy's files know; to read, a plain
    one, whose rows are cheaper to take than a memmap's.
    """
    stored = np.uint16 if dtype == jnp.bfloat16 else dtype
    mapped = np.memmap(path, stored, mode, shape=shape)
    array = np.asarray(mapped) if mode == "r" else mapped
    return array.view(dtype) if dtype == jnp.bfloat16 else array
