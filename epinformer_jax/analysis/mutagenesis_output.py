"""What mutagenesis finds, as arrays, files and browser tracks.

The .npz has one row a scan, bases in the order A, C, G, T on the + strand. Scans begin at column 0;
columns behind the end of a shorter one are 0 in every array.

  one_hot      uint8   [N, 4, L]  the sequence; an unknown base is all zero
  ism          float32 [N, 4, L]  prediction with each base in that place less the prediction as it
                                  is: 0 at the base that stands there. Mode `sequence`: measured
                                  signals stay as they are
  ism_activity float32 [N, 4, L]  mode `sequence+activity`: the slot's activity follows, times
                                  2^(change of the activity model's prediction); only of genes, and
                                  only where activity models were given
  ism_sd       float32 [N, 4, L]  standard deviation of `ism` over models, where several speak
  reference    float32 [N, L]     the prediction as it is; of regions that of the position's window,
                                  with averaged strands the mean of its windows on both
  deletion_K, insertion_X  float32 [N, L]  effect of deleting K bases from there on, of inserting X
                                  before there; NaN where that does not fit
  name, chrom, strand, fold, in_training, gene_id, role   text [N]
  start, length  int64 [N]  0-based; start -1 when a sequence has no place
  label        text []     what is predicted, and so the unit of all effects
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from epinformer_jax.analysis.tracks import Signal
from epinformer_jax.data import atomic, sequence

_TEXTS = ("name", "chrom", "strand", "fold", "in_training", "gene_id", "role")


@dataclasses.dataclass(frozen=True)
class Scan:
    """Effects of every substitution of one stretch of DNA, mean over strands and models.

    Attributes:
      name: of the stretch: its place (1-based, chrom:start-end), after the gene where it has one.
      chrom, start: "" and -1 where it has no place; start is 0-based.
      codes: its bases.
      reference: prediction as it is, position by position.
      effects: prediction with each base less `reference`; mode `sequence`.
      effects_with_activity: likewise in mode `sequence+activity`; None where it was not computed.
      sd: of `effects` over models; None where one model speaks.
      indels: effects of deletions and insertions by name; NaN where one does not fit.
      fold, in_training: who predicts, and whether it has seen this chromosome.
      role: region, sequence, promoter or element.
      label: what is predicted.
    """

    name: str
    chrom: str
    start: int
    codes: UInt8[np.ndarray, "L"]
    reference: Float[np.ndarray, "L"]
    effects: Float[np.ndarray, "4 L"]
    effects_with_activity: Float[np.ndarray, "4 L"] | None = None
    sd: Float[np.ndarray, "4 L"] | None = None
    indels: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    fold: str = ""
    in_training: str = ""
    gene_id: str = ""
    role: str = "region"
    label: str = ""
    strand: str = "+"

    @property
    def one_hot(self) -> UInt8[np.ndarray, "4 L"]:
        """The bases; an unknown one is all zero."""
        return sequence.one_hot(self.codes, unknown=0).T.astype(np.uint8)

    @property
    def hypothetical(self) -> Float[np.ndarray, "4 L"]:
        """What each base would contribute: its effect less the mean of the four."""
        return self.effects - self.effects.mean(axis=0, keepdims=True)

    @property
    def contribution(self) -> Float[np.ndarray, "L"]:
        """What the base that stands there contributes; 0 where it is unknown."""
        return (self.hypothetical * self.one_hot).sum(axis=0)


def arrays(scans: Sequence[Scan]) -> dict[str, np.ndarray]:
    """The arrays of the .npz.

    Raises:
      ValueError: there is no scan.
    """
    if not scans:
        raise ValueError("there is nothing to save: no scan was made")
    length = max(len(scan.codes) for scan in scans)
    found = {
        "one_hot": _stacked([scan.one_hot for scan in scans], length),
        "ism": _stacked([scan.effects.astype(np.float32) for scan in scans], length),
        "reference": _stacked([scan.reference.astype(np.float32) for scan in scans], length),
    }
    for name, field in (("ism_activity", "effects_with_activity"), ("ism_sd", "sd")):
        parts = [getattr(scan, field) for scan in scans]
        if any(part is not None for part in parts):
            filled = [
                np.full(scan.effects.shape, np.nan) if part is None else part
                for scan, part in zip(scans, parts, strict=True)
            ]
            found[name] = _stacked([part.astype(np.float32) for part in filled], length)
    for name in dict.fromkeys(name for scan in scans for name in scan.indels):
        rows = [scan.indels[name].astype(np.float32) for scan in scans]
        found[name] = _stacked(rows, length)
    for name in _TEXTS:
        found[name] = np.array([getattr(scan, name) for scan in scans], dtype=np.str_)
    found["start"] = np.array([scan.start for scan in scans], np.int64)
    found["length"] = np.array([len(scan.codes) for scan in scans], np.int64)
    found["label"] = np.array(scans[0].label)
    return found


def save(path: str | os.PathLike, scans: Sequence[Scan]) -> list[Path]:
    """Writes the .npz, and beside it the two files that modisco-lite takes; returns their paths.

    NAME.modisco_onehot.npz and NAME.modisco_attributions.npz hold one array each, [N, 4, L]: the
    sequences, and what each base would contribute (`Scan.hypothetical`).
    """
    path = Path(path)
    content = arrays(scans)
    length = content["one_hot"].shape[2]
    hypothetical = _stacked([scan.hypothetical.astype(np.float32) for scan in scans], length)
    _save(path, content)
    paths = [path]
    for name, array in (("onehot", content["one_hot"]), ("attributions", hypothetical)):
        paths.append(path.with_name(f"{path.name.removesuffix('.npz')}.modisco_{name}.npz"))
        _save(paths[-1], {"arr_0": array})
    return paths


def signals(scans: Sequence[Scan]) -> list[Signal]:
    """What the base that stands there contributes, as tracks; the mean where scans overlap.

    Raises:
      ValueError: no scan has a place in a genome.
    """
    placed = [scan for scan in scans if scan.start >= 0]
    if not placed:
        raise ValueError("these sequences have no place in a genome, so they make no track")
    found = []
    for chrom in dict.fromkeys(scan.chrom for scan in placed):
        own = sorted((scan for scan in placed if scan.chrom == chrom), key=lambda s: s.start)
        group, end = [own[0]], own[0].start + len(own[0].codes)
        for scan in own[1:]:
            if scan.start > end:
                found.append(_merged(group))
                group = []
            group.append(scan)
            end = max(end, scan.start + len(scan.codes))
        found.append(_merged(group))
    return found


def _merged(group: Sequence[Scan]) -> Signal:
    start = group[0].start
    length = max(scan.start + len(scan.codes) for scan in group) - start
    total, count = np.zeros(length), np.zeros(length)
    for scan in group:
        inside = slice(scan.start - start, scan.start - start + len(scan.codes))
        total[inside] += scan.contribution
        count[inside] += 1
    return Signal(group[0].chrom, start, total / np.maximum(count, 1))


def _stacked(rows: Sequence[np.ndarray], length: int) -> np.ndarray:
    stacked = np.zeros((len(rows), *rows[0].shape[:-1], length), rows[0].dtype)
    for row, own in enumerate(rows):
        stacked[row, ..., : own.shape[-1]] = own
    return stacked


def _save(path: Path, content: dict[str, np.ndarray]) -> None:
    with atomic.atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **content)
