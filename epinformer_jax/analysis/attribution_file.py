"""The file of attributions: what `attribution` writes and `motifs` reads, beside mutagenesis.

An .npz, one row a sequence, bases in the order A, C, G, T, on the + strand of the FASTA. Sequences
begin at column 0; shorter ones end in columns that are 0 in every array, as unknown bases are.

  one_hot        uint8   [N, 4, L]  the sequence
  hypothetical   float32 [N, 4, L]  what each base would contribute in that place
  contributions  float32 [N, 4, L]  hypothetical where the base stands, else 0
  name, chrom, strand, fold, gene_id, role   text [N]; chrom "" when a sequence has no place
  start, length  int64   [N]  0-based; start -1 when a sequence has no place
  prediction, reference_prediction, completeness_error   float64 [N]
  method         text []
"""

import dataclasses
import os
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from epinformer_jax.data import atomic


@dataclasses.dataclass(frozen=True)
class Attributions:
    """Sequences with what each base contributes to a prediction; fields as in the file.

    `completeness_error` is |sum of contributions - (prediction - reference_prediction)| relative to
    |prediction - reference_prediction|.
    """

    one_hot: UInt8[np.ndarray, "N 4 L"]
    hypothetical: Float[np.ndarray, "N 4 L"]
    name: Shaped[np.ndarray, "N"]
    chrom: Shaped[np.ndarray, "N"]
    start: Int[np.ndarray, "N"]
    length: Int[np.ndarray, "N"]
    strand: Shaped[np.ndarray, "N"]
    fold: Shaped[np.ndarray, "N"]
    gene_id: Shaped[np.ndarray, "N"]
    role: Shaped[np.ndarray, "N"]
    prediction: Float[np.ndarray, "N"]
    reference_prediction: Float[np.ndarray, "N"]
    completeness_error: Float[np.ndarray, "N"]
    method: str

    def __len__(self) -> int:
        return len(self.one_hot)

    @property
    def contributions(self) -> Float[np.ndarray, "N 4 L"]:
        """The hypothetical contributions of the bases that stand there."""
        return self.hypothetical * self.one_hot

    def save(self, path: str | os.PathLike) -> None:
        """Writes the .npz, whole or not at all."""
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        with atomic.atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, contributions=self.contributions, **arrays)


@dataclasses.dataclass(frozen=True)
class Contributions:
    """What motif discovery takes: sequences, hypothetical contributions, and where they lie.

    `start` is -1 and `chrom` "" for a sequence that has no place.
    """

    one_hot: UInt8[np.ndarray, "N 4 L"]
    hypothetical: Float[np.ndarray, "N 4 L"]
    name: Shaped[np.ndarray, "N"]
    chrom: Shaped[np.ndarray, "N"]
    start: Int[np.ndarray, "N"]


def read(path: str | os.PathLike) -> Contributions:
    """Reads files of `attribution` and of `mutagenesis` alike.

    From a mutagenesis `ism` (the change of each substitution) the hypothetical contribution of a
    base is its change less the mean of the four.

    Raises:
      ValueError: not an .npz of this kind, arrays that do not fit, or a value that is not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; make it with `epinformer attribution --out`")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        raise ValueError(
            f"{path}: is no .npz file, or a damaged one; make it with `epinformer attribution "
            "--out`"
        ) from None
    found = ", ".join(sorted(arrays))
    scores = arrays.get("hypothetical", arrays.get("ism"))
    if "one_hot" not in arrays or scores is None:
        raise ValueError(
            f"{path}: holds {found}; expected one_hot with hypothetical or ism, as `epinformer "
            "attribution` and `epinformer mutagenesis` write them"
        )
    one_hot = arrays["one_hot"]
    if one_hot.ndim != 3 or one_hot.shape[1] != 4 or scores.shape != one_hot.shape:
        raise ValueError(
            f"{path}: one_hot is {one_hot.shape} and the scores are {scores.shape}; expected "
            "[sequences, 4, bases] in both"
        )
    is_known = one_hot.astype(bool).any(axis=1, keepdims=True)
    if not np.isfinite(np.where(is_known, scores, 0)).all():
        raise ValueError(f"{path}: a score is not finite; compute the attributions again")
    scores = np.where(is_known, scores, 0).astype(np.float32)
    if "hypothetical" not in arrays:
        scores = np.where(is_known, scores - scores.mean(axis=1, keepdims=True), 0)
    count = len(one_hot)
    chrom, start = arrays.get("chrom"), arrays.get("start")
    places = chrom is not None and start is not None and len(chrom) == len(start) == count
    chrom = chrom.astype(str) if places else np.full(count, "")
    start = start.astype(np.int64) if places else np.full(count, -1)
    name = arrays.get("name")
    if name is None or len(name) != count:
        name = np.array([f"sequence_{row + 1}" for row in range(count)])
    return Contributions(one_hot.astype(np.uint8), scores, name.astype(str), chrom, start)
