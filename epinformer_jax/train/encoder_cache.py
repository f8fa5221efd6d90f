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
from tqdm import tqdm

from epinformer_jax.data import atomic
from epinformer_jax.data.batches import (
    Batch,
    Plan,
    Sequences,
    deal_rows,
    make_plan,
    pack_windows,
)
from epinformer_jax.data.loader import Stream
from epinformer_jax.model import architecture, cached, functional
from epinformer_jax.model.functional import Variables
from epinformer_jax.model.packing import PackedRows
from epinformer_jax.train import checkpoint, devices, tasks

MANIFEST = atomic.MARKER
FORMAT = 1
POSITIONS_A_CALL = 2**16  # bases that go through the encoder at once while towers are made
# Of batches behind the encoder: convolutions are small there, so more groups of rows cost more than
# they save; more layouts do save.
WIDTHS = 3
LAYOUTS = 8
ROWS_STEP = 8  # rows of a call are a multiple of this, to divide evenly over devices


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
        self._behind = make_plan(
            [gene.lengths for gene in sequences],
            batch_size=plan.batch_size,
            window_bp=plan.window_bp,
            slots=plan.slots,
            stride=objective.model.encoder.stride,
            margin_bp=plan.margin_bp,
            layouts=LAYOUTS,
            most_widths=WIDTHS,
        )
        self._width = plan.width_of(self._lengths)
        # row of a sequence in its width's file
        self._place = np.zeros(len(self._lengths), np.int64)
        for k in range(len(plan.widths)):
            members = self._width == k
            self._place[members] = np.arange(members.sum())
        self._strands = ("forward", "reverse") if objective.flip else ("forward",)
        self._towers: dict[tuple[int, str], np.ndarray] | None = None
        self._background: np.ndarray | None = None

    @property
    def is_open(self) -> bool:
        """Whether towers can be read."""
        return self._towers is not None

    @property
    def size_bytes(self) -> int:
        """What the files take."""
        shapes = [self._shape(k) for k in range(len(self._plan.widths))]
        return sum(map(math.prod, shapes)) * len(self._strands) * self._dtype.itemsize

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
        names = self._files()
        self._background = _from_bytes(np.load(folder / "background.npy"), self._dtype)
        self._towers = {
            which: _map(folder / name, self._shape(which[0]), self._dtype)
            for which, name in names.items()
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
        of_gene = [index[first[gene] : first[gene + 1]] for gene in genes]
        counts = [len(each) for each in of_gene]
        sequences = np.concatenate(of_gene)
        layout, row = deal_rows(self._behind, self._lengths[sequences])
        held = np.full(sum(layout), -1)
        held[row] = sequences
        row_of_slot = np.zeros_like(batch["row_of_slot"])
        slot = np.concatenate([np.arange(count) for count in counts])
        row_of_slot[np.repeat(np.arange(len(counts)), counts), slot] = row
        rows, groups = [], np.split(held, np.cumsum(layout)[:-1])
        for width, own in zip(self._behind.widths, groups, strict=True):
            gathered = [self._gather(own, width, strand) for strand in self._strands]
            group = {
                "tower": gathered[0],
                "other_strand": gathered[1] if len(gathered) > 1 else None,
                "weight": (own >= 0).astype(np.float32),
            }
            rows += [group] if len(own) else []
        towers = {"rows": tuple(rows), "background": self._background}
        return {**batch, **towers, "row_of_slot": row_of_slot}

    def _gather(self, sequences, width: int, strand: str) -> Float[np.ndarray, "N W C"]:
        """Towers in windows of `width` bases, between the background's values; background for
        -1.
        """
        start, end = self._positions(width)
        gathered = np.empty((len(sequences), end - start, self._background.shape[1]), self._dtype)
        for row, sequence in enumerate(sequences):
            if sequence < 0:
                gathered[row] = self._background[start:end]
                continue
            kept = int(self._width[sequence])
            tower = self._towers[kept, strand][self._place[sequence]]
            first, last = self._positions(self._plan.widths[kept])
            left, right = max(first, start), min(last, end)  # both windows hold the sequence
            gathered[row, : left - start] = self._background[start:left]
            gathered[row, left - start : right - start] = tower[left - first : right - first]
            gathered[row, right - start :] = self._background[right:end]
        return gathered

    def _positions(self, width: int) -> tuple[int, int]:
        """First and end of a window of so many bases, in positions behind the encoder."""
        stride = self._objective.model.encoder.stride
        start = (self._plan.window_bp - width) // 2 // stride
        return start, start + width // stride

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
            "widths": list(self._plan.widths),
            "unknown_base": objective.unknown_base,
            "dtype": self._dtype.name,
            "strands": list(self._strands),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def _files(self) -> dict[tuple[int, str], str]:
        return {
            (k, strand): f"width_{width}_{strand}.bin"
            for k, width in enumerate(self._plan.widths)
            for strand in self._strands
            if self._shape(k)[0]
        }

    def _shape(self, k: int) -> tuple[int, int, int]:
        encoder = self._objective.model.encoder
        rows = int((self._width == k).sum())
        return rows, self._plan.widths[k] // encoder.stride, encoder.channels[-1]

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
        with tqdm(total=total, desc="encoder, once", unit="seq", dynamic_ncols=True) as bar:
            for (k, strand), name in self._files().items():
                with open(folder / name, "wb") as file:
                    for batch, real in self._calls(k):
                        rows = devices.put_batch({"rows": batch}, self._mesh)["rows"]
                        tower, background = encode(variables, rows, strand == "reverse")
                        tower = np.asarray(tower[:real].astype(self._dtype))
                        file.write(np.ascontiguousarray(tower).tobytes())
                        bar.update(real)
        background = np.asarray(background.astype(self._dtype))
        np.save(folder / "background.npy", _as_bytes(background))
        names = [*self._files().values(), "background.npy"]
        stated = {name: _digest_of_file(folder / name) for name in names}
        (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "sha256": stated}) + "\n")

    def _calls(self, k: int) -> Iterator[tuple[Batch, int]]:
        """Rows of one width in calls of one shape, and how many of them are real."""
        width = self._plan.widths[k]
        size = max(POSITIONS_A_CALL // width // ROWS_STEP, 1) * ROWS_STEP
        members = np.flatnonzero(self._width == k)
        size = min(size, -(-len(members) // ROWS_STEP) * ROWS_STEP)
        for begin in range(0, len(members), size):
            codes = [self._distinct.codes[i] for i in members[begin : begin + size]]
            nothing = np.zeros(len(codes), np.float32)
            batch = pack_windows(codes, nothing, window_bp=width, batch_size=size)
            yield batch["rows"], len(codes)


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


def obstacle(setting: str, objective: tasks.Objective, cache: EncoderCache) -> str:
    """Why an encoder's outputs cannot be cached; "" when they can, or `setting` is off anyway.

    Raises:
      ValueError: `setting` is `on`, and they cannot.
    """
    reason = _obstacle(objective, cache)
    if reason and setting == "on":
        raise ValueError(
            f"config.train.encoder_cache='on', but {reason}; set it to auto or off, or mend that"
        )
    return reason


def _obstacle(objective: tasks.Objective, cache: EncoderCache) -> str:
    if objective.encoder != "frozen":
        return f"the encoder is {objective.encoder}, which changes its outputs: it must be frozen"
    if objective.shift_bp:
        return f"sequences move by up to {objective.shift_bp} bases in training (data.shift_bp)"
    parent = next(folder for folder in cache.directory.parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if cache.size_bytes > 0.9 * free:
        gigabytes = cache.size_bytes / 1e9
        return f"the cache needs {gigabytes:.1f} GB and {parent} has {free / 1e9:.1f} GB left"
    return ""


@functools.lru_cache(maxsize=4)
def _encode(model: architecture.ExpressionConfig, unknown: float):
    def encode(variables, rows, other_strand):
        bound = functional.bind(model, variables)
        rows = PackedRows(**rows)
        return cached.towers(bound, rows, unknown=unknown, other_strand=other_strand)

    return jax.jit(encode, static_argnums=2)


def _digest(leaf) -> str:
    leaf = np.ascontiguousarray(leaf)
    return hashlib.sha256(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes()).hexdigest()


def _digest_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_bytes(array: np.ndarray) -> np.ndarray:
    """bfloat16 as 16-bit integers, which NumPy's files know; other types as they are."""
    return array.view(np.uint16) if array.dtype == jnp.bfloat16 else array


def _from_bytes(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return array.view(dtype) if dtype == jnp.bfloat16 else array


def _map(path: Path, shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
    """A file as a read-only array; a plain one, whose rows are cheaper to take than a memmap's."""
    stored = np.uint16 if dtype == jnp.bfloat16 else dtype
    return _from_bytes(np.asarray(np.memmap(path, stored, "r", shape=shape)), dtype)
