"""Mutagenesis of an activity model over stretches of DNA of any length.

Windows are laid over a stretch so that each position is scored in the one whose middle is nearest;
around a region of a genome they reach into its flanks. A sequence without flanks that is no longer
than the window stands in its middle, as in `epinformer activity`; over a longer one, windows do not
reach beyond its ends. Strands are averaged over the whole stretch, so the reverse complement of a
region gives the mirror image: windows are counted from the stretch's first base, and on the other
strand from its last. So a base's effect depends a little on where its stretch begins, unless each
base has its own window (a step of 1).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from tqdm import tqdm

from epinformer_jax.analysis import edits, ensembles, saturation
from epinformer_jax.analysis.edits import Edit, Series
from epinformer_jax.analysis.ensembles import Ensemble, Model
from epinformer_jax.analysis.kmer_tables import KmerTable
from epinformer_jax.analysis.mutagenesis_output import Scan
from epinformer_jax.analysis.saturation import Window
from epinformer_jax.data import sequence
from epinformer_jax.model import functional
from epinformer_jax.model.kmers import Table, Taps

SEQUENCES_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Stretch:
    """DNA to mutate.

    Attributes:
      name: in the results.
      codes: its bases, with `flank` more on either side (unknown past a contig's end).
      flank: 0 for a sequence that stands alone.
      chrom, start: its place, 0-based, without flanks; "" and -1 where it has none.
      split: the chromosome it counts as; "" where that is unknown.
    """

    name: str
    codes: UInt8[np.ndarray, "_"]
    flank: int = 0
    chrom: str = ""
    start: int = -1
    split: str = ""

    @property
    def length(self) -> int:
        """Bases to mutate."""
        return len(self.codes) - 2 * self.flank

    @property
    def own(self) -> UInt8[np.ndarray, "_"]:
        """The bases to mutate."""
        return self.codes[self.flank : self.flank + self.length]

    def turned(self) -> "Stretch":
        """The other strand."""
        return dataclasses.replace(self, codes=sequence.reverse_complement(self.codes))


def mutate_stretches(
    models: Sequence[Model],
    stretches: Sequence[Stretch],
    *,
    step_bp: int | None = None,
    deletions: Sequence[int] = (),
    insertions: Sequence[str] = (),
    ensemble: Ensemble = "auto",
    average_strands: bool = False,
    kmer_table: KmerTable = "auto",
    tables: Mapping[str, Table | Taps] | None = None,
    show_progress: bool = False,
) -> list[Scan]:
    """Every substitution of every stretch, by the activity models that speak about its chromosome.

    Args:
      step_bp: distance of windows; a quarter of the model's window without that. Each position is
        at most half of it away from the middle of its window.
      deletions, insertions: see `edits.series`. What leaves or enters a window at its left end
        stays; at its right end the genome moves. A sequence without flanks that fits the window is
        put in its middle anew.
      average_strands: mean of both strands.
      kmer_table: auto, on, small or off: what answers for a model's first layers, see
        `kmer_tables.choose`.
      tables: k-mer tables (saturation.kmer_table) that are there already, by model name.

    Raises:
      ValueError: nothing to mutate, an empty stretch, a step that is not 1 to the window, or as
        `ensembles.speakers`.
    """
    if not stretches:
        raise ValueError("there is nothing to mutate; name a region or give sequences")
    window_bp = models[0].info.model.window_bp
    step_bp = max(window_bp // 4, 1) if step_bp is None else step_bp
    if not 1 <= step_bp <= window_bp:
        raise ValueError(f"windows every {step_bp} bp: expected 1 to the window, {window_bp}")
    for stretch in stretches:
        if stretch.length < 1:
            raise ValueError(f"{stretch.name} has no base to mutate")
    splits = [stretch.split for stretch in stretches]
    names = [stretch.name for stretch in stretches]
    speaking = ensembles.speakers(models, splits, names, ensemble)
    folds, seen = ensembles.fold_and_training(models, splits, speaking)
    series = [edits.series(stretch.length, deletions, insertions) for stretch in stretches]
    bases = (1 + average_strands) * np.array([stretch.length for stretch in stretches])
    parts = [[] for _ in stretches]
    with tqdm(
        total=int((speaking * bases[None]).sum()),
        unit="bp",
        disable=None if show_progress else True,
    ) as bar:
        for model, speaks in zip(models, speaking, strict=True):
            table = (tables or {}).get(model.name)
            if table is None:
                table = saturation.kmer_table(model, int(bases[speaks].sum()), kmer_table)
            for column in np.flatnonzero(speaks).tolist():
                given = model, stretches[column], step_bp, series[column], average_strands
                parts[column].append(_by_model(*given, table, bar))
            del table  # 3 GB: not two at once
    return [
        dataclasses.replace(
            _scan(stretch, own, one, models[0].info.label), fold=fold, in_training=in_training
        )
        for stretch, own, one, fold, in_training in zip(
            stretches, parts, series, folds, seen, strict=True
        )
    ]


def _scan(stretch: Stretch, parts, series: Sequence[Series], label: str) -> Scan:
    """The mean over models; each gives what `_by_model` gives."""
    effects = np.stack([changed - reference[None] for reference, changed, _ in parts])
    indels = {one.name: np.full(stretch.length, np.nan) for one in series}
    for place, one in enumerate(series):
        indels[one.name][one.starts] = np.mean([found[place] for *_, found in parts], axis=0)
    return Scan(
        name=stretch.name,
        chrom=stretch.chrom,
        start=stretch.start,
        codes=stretch.own,
        reference=np.mean([reference for reference, *_ in parts], axis=0),
        effects=effects.mean(axis=0),
        sd=effects.std(axis=0) if len(parts) > 1 else None,
        indels=indels,
        role="region" if stretch.flank else "sequence",
        label=label,
    )


def _by_model(model: Model, stretch: Stretch, step_bp, series, average_strands, table, bar):
    """Reference [L], changed [4, L] and the effects of each edit series; mean of strands."""
    length = stretch.length
    found = [_one_strand(model, stretch, step_bp, series, table)]
    bar.update(length)
    if average_strands:
        turned = [
            one._replace(edits=[edits.mirrored(edit, length) for edit in one.edits])
            for one in series
        ]
        reference, changed, indels = _one_strand(model, stretch.turned(), step_bp, turned, table)
        found.append((reference[::-1], changed[::-1, ::-1], indels))
        bar.update(length)
    reference, changed = (np.mean([part[i] for part in found], axis=0) for i in range(2))
    indels = [np.mean(own, axis=0) for own in zip(*(part[2] for part in found), strict=True)]
    return reference, changed, indels


def _one_strand(model: Model, stretch: Stretch, step_bp: int, series, table: Table | Taps | None):
    window_bp = model.info.model.window_bp
    starts, of_position = lay_windows(
        stretch.length, window_bp, step_bp, has_flanks=stretch.flank > 0
    )
    windows, first = [], 0
    for place, start in enumerate(starts.tolist()):
        codes, valid = _cut(stretch.codes, start + stretch.flank, window_bp)
        last = first + int((of_position == place).sum())
        wanted = np.zeros(window_bp, bool)
        wanted[first - start : last - start] = True
        windows.append(Window(codes, valid, wanted))
        first = last
    found = saturation.predict_activity(model, windows, table=table)
    places = np.arange(stretch.length) - starts[of_position]
    reference = found.reference[of_position]
    changed = found.changed[of_position, :, places].T
    indels = []
    for one in series:
        cut = [_edited(stretch, edit, starts, of_position, window_bp) for edit in one.edits]
        at = np.minimum(one.starts, stretch.length - 1)
        indels.append(predict_windows(model, cut) - reference[at])
    return reference, changed, indels


def lay_windows(length: int, window_bp: int, step_bp: int, *, has_flanks: bool):
    """Where windows begin in a stretch (int64 array, may be negative), and of each position the
    window that scores it.
    """
    if not has_flanks and length <= window_bp:
        start = -(window_bp // 2 - length // 2)
        return np.array([start], np.int64), np.zeros(length, np.int64)
    blocks = -(-length // step_bp)
    middles = np.arange(blocks) * step_bp + step_bp // 2
    starts = middles - window_bp // 2
    if not has_flanks:
        starts = np.clip(starts, 0, length - window_bp)
    return starts.astype(np.int64), np.arange(length) // step_bp


def predict_windows(
    model: Model,
    windows: Sequence[tuple[UInt8[np.ndarray, "L"], Bool[np.ndarray, "L"]]],
) -> Float[np.ndarray, "N"]:
    """log activity of windows, each codes and validity, the plain way; float64."""
    step = saturation.compiled(functional.activity, model.info.model)
    variables = model.variables
    size = min(SEQUENCES_AT_ONCE, max(len(windows), 1))
    parts = [np.empty(0)]
    for first in range(0, len(windows), size):
        chosen = list(windows[first : first + size])
        filled = [*chosen, *[chosen[0]] * (size - len(chosen))]
        codes, valid = (np.stack(part) for part in zip(*filled, strict=True))
        bases = sequence.one_hot(codes, unknown=model.info.unknown_base)
        parts.append(np.asarray(step(variables, bases, valid), np.float64)[: len(chosen)])
    return np.concatenate(parts)


def flank_bp(window_bp: int, deletions: Sequence[int] = ()) -> int:
    """Bases that a region needs on either side: a window's worth, and what deletions draw in."""
    return window_bp + max(deletions, default=0)


def _edited(stretch: Stretch, edit: Edit, starts, of_position, window_bp: int):
    edited = edits.apply(stretch.codes, edit._replace(start=edit.start + stretch.flank))
    if not stretch.flank and len(edited) <= window_bp:
        return _cut(edited, -(window_bp // 2 - len(edited) // 2), window_bp)
    start = int(starts[of_position[min(edit.start, stretch.length - 1)]]) + stretch.flank
    if not stretch.flank:
        start = min(max(start, 0), len(edited) - window_bp)
    return _cut(edited, start, window_bp)


def _cut(codes, start: int, window_bp: int):
    """A window of codes; what lies beyond their ends is padding."""
    places = start + np.arange(window_bp)
    inside = (places >= 0) & (places < len(codes))
    return np.where(inside, codes[np.clip(places, 0, len(codes) - 1)], 0).astype(np.uint8), inside
