"""Contact of element and TSS: Hi-C where there is some, else a power law of distance.

Hi-C is balanced, its diagonal repaired, divided by the mean row sum, and looked up in the bins of
the element's middle and of the TSS. For ABC scores it is scaled to a reference power law and gets a
pseudocount; the expression model takes it as it is. A chromosome without contacts falls back to the
power law, and the summary says which.

    python -m data_prep contact --contact avg_hic.bedpe.gz --contact-resolution 5000 --out avg_hic/
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Real

from data_prep import contact_matrices
from data_prep.contact_export import export_maps, export_text
from data_prep.contact_map import ContactMap
from data_prep.contact_text import TextContacts
from data_prep.contig_names import (
    NoCommonContig,
    match_contigs,
    read_aliases,
    read_contig_lengths,
)
from data_prep.power_law import OBSERVED, REFERENCE, PowerLaw
from epinformer_jax.data.chromosomes import natural_order

DESCRIPTION = "contacts of .hic, .cool or bedpe files, normalised, as one text file a chromosome"
POWER_LAW = "power law"
_HIC_ENDING = ".hic"
_COOLER_ENDINGS = (".cool", ".mcool")


@runtime_checkable
class ContactFile(Protocol):
    """What the readers of contact files have in common."""

    path: str
    resolution_bp: int

    def contigs(self) -> Mapping[str, int | None]:
        """Contig names and lengths; empty where the file does not say beforehand."""
        ...

    def read(
        self, contig: str, *, chrom: str, max_distance_bp: int, tss_contribution_percent: float
    ) -> ContactMap | None:
        """One chromosome within a distance, or None without contacts."""
        ...


@dataclass
class ContactSource:
    """Contacts by chromosome from a file, or nothing but the power law (`file` None).

    Attributes:
      file: the reader, or None.
      observed: the power law that stands in for Hi-C and that Hi-C is scaled from.
      reference: the power law that Hi-C is scaled to.
      pseudocount_distance_bp: the pseudocount is the observed power law at this distance or, if
        that is less, at the pair's own.
      tss_contribution_percent: see ContactCollector.finish.
      used: filled while reading: chromosome -> normalisation, or "power law".
    """

    file: ContactFile | None = None
    observed: PowerLaw = OBSERVED
    reference: PowerLaw = REFERENCE
    pseudocount_distance_bp: float = 5000.0
    tss_contribution_percent: float = 100.0
    contigs: Mapping[str, int | None] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)
    missing_pixels: int = 0

    def load(self, chrom: str, *, max_distance_bp: int) -> ContactMap | None:
        """Reads a chromosome's contacts; None means that the power law stands in.

        Raises:
          ValueError: the file is malformed or from another assembly.
        """
        found = None
        if self.file is not None:
            contig = self._contig(chrom)
            if contig is not None:
                found = self.file.read(
                    contig,
                    chrom=chrom,
                    max_distance_bp=max_distance_bp,
                    tss_contribution_percent=self.tss_contribution_percent,
                )
        self.used[chrom] = found.normalisation if found is not None else POWER_LAW
        self.missing_pixels += found.n_missing if found is not None else 0
        return found

    def _contig(self, chrom: str) -> str | None:
        found = self.file.contigs()
        if not found:
            return chrom
        expected = self.contigs if self.contigs is not None else {chrom: None}
        try:
            mapping = match_contigs(found, expected, source=self.file.path, aliases=self.aliases)
        except NoCommonContig:
            if self.contigs is None:
                return None
            raise
        return next((theirs for theirs, ours in mapping.items() if ours == chrom), None)

    def describe(self) -> list[str]:
        """Lines for a table's header: file, normalisation, what is not balanced, what fell back."""
        if self.file is None:
            return [f"contact: power law alone, gamma {self.observed.gamma:.6g}"]
        by_kind: dict[str, list[str]] = {}
        for chrom in natural_order(self.used):
            by_kind.setdefault(self.used[chrom], []).append(chrom)
        name = Path(self.file.path).name
        lines = [f"contact: {name} at {self.file.resolution_bp} bp, divided by the mean row sum"]
        if isinstance(self.file, TextContacts) and not self.file.divides:
            lines = [f"contact: {name} at {self.file.resolution_bp} bp, on the scale given"]
        for kind, chroms in by_kind.items():
            note = {
                POWER_LAW: "no contacts there, power law instead",
                contact_matrices.UNBALANCED: self._unbalanced(),
                "weight": "normalisation weight (multiplied)",
                "as given": "balanced as the text file has it",
            }.get(kind, f"normalisation {kind} (divided)")
            lines.append(f"contact {note}: {', '.join(chroms)}")
        if self.missing_pixels:
            lines.append(f"contact 0 for {self.missing_pixels:,} pixels in masked bins")
        return lines

    def _unbalanced(self) -> str:
        asked = getattr(self.file, "normalisations", ())
        if tuple(asked[:1]) == (contact_matrices.UNBALANCED,):
            return "not balanced, as asked (NONE)"
        return "NOT BALANCED: no balancing weights in the file"


def contact_columns(
    source: ContactSource,
    contacts: ContactMap | None,
    *,
    middle_bp: Real[np.ndarray, " pairs"],
    tss: Real[np.ndarray, " pairs"],
) -> pd.DataFrame:
    """The contact columns of the putative table for pairs of one chromosome.

    powerlaw_contact, powerlaw_contact_reference, hic_contact, hic_contact_pl_scaled,
    hic_pseudocount, hic_contact_pl_scaled_adj (the hic ones NaN without contacts), and two that
    pick from them: `contact`, what the expression model takes (no pseudocount), and `abc_contact`,
    what ABC scores use.
    """
    distance = np.abs(np.asarray(middle_bp, np.float64) - np.asarray(tss, np.float64))
    observed = source.observed.contact(distance)
    reference = source.reference.contact(distance)
    columns = {"powerlaw_contact": observed, "powerlaw_contact_reference": reference}
    if contacts is None:
        empty = np.full(len(distance), np.nan)
        for name in ("", "_pl_scaled"):
            columns[f"hic_contact{name}"] = empty
        columns["hic_pseudocount"] = columns["hic_contact_pl_scaled_adj"] = empty
        return pd.DataFrame(columns | {"contact": observed, "abc_contact": observed})
    hic = contacts.lookup(np.asarray(middle_bp), np.asarray(tss))
    scaled = hic * (reference / observed)
    limit = source.observed.contact(np.array([source.pseudocount_distance_bp]))
    pseudocount = np.minimum(observed, limit)
    columns["hic_contact"] = hic
    columns["hic_contact_pl_scaled"] = scaled
    columns["hic_pseudocount"] = pseudocount
    columns["hic_contact_pl_scaled_adj"] = scaled + pseudocount
    return pd.DataFrame(columns | {"contact": hic, "abc_contact": scaled + pseudocount})


def is_matrix(place: str) -> bool:
    """True for .hic, .cool and .mcool files and for cooler URIs, by their names."""
    return "::" in place or place.lower().endswith((_HIC_ENDING, *_COOLER_ENDINGS))


def open_contacts(
    place: str,
    *,
    resolution_bp: int,
    normalisations: Sequence[str] | None = None,
    divide_by_row_sum: bool = False,
) -> ContactFile:
    """Opens contacts: .hic, .cool, .mcool, a folder, a text file, or chr22=FILE,...

    `normalisations` is the order in which balancing is tried; `divide_by_row_sum` concerns text
    only.

    Raises:
      ValueError: the file cannot be read, or lacks the resolution.
    """
    options: dict[str, Any] = {"resolution_bp": resolution_bp}
    if normalisations:
        options["normalisations"] = normalisations
    if place.lower().endswith(_HIC_ENDING):
        return contact_matrices.HicFile(place, **options)
    if is_matrix(place):
        return contact_matrices.CoolFile(place, **options)
    files = None
    if "=" in place and not os.path.exists(place):
        files = dict(part.split("=", 1) for part in place.split(",") if "=" in part)
    return TextContacts(
        place, resolution_bp=resolution_bp, divide_by_row_sum=divide_by_row_sum, files=files
    )


def add_contact_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where contacts come from; shared with `links`."""
    group = parser.add_argument_group("contact")
    add = group.add_argument
    add(
        "--contact",
        help=".hic, .cool, .mcool, a folder of chr*.tsv.gz (x1, x2, contact), bedpe, or "
        "chr22=FILE,...; without it the power law alone",
    )
    add("--contact-resolution", type=int, default=5000, help="bin width, bp (default: %(default)s)")
    add(
        "--contact-normalisation",
        help="comma-separated balancing to try in order (default: SCALE,KR,VC,NONE; for cooler "
        "files weight comes first)",
    )
    add(
        "--divide-by-row-sum",
        action="store_true",
        help="text contacts are raw: divide them by their mean row sum (.hic and .cool always are)",
    )
    add(
        "--gamma",
        type=float,
        default=OBSERVED.gamma,
        help="observed power law (default: %(default)s)",
    )
    add("--scale", type=float, default=OBSERVED.scale, help="(default: %(default)s)")
    add("--reference-gamma", type=float, default=REFERENCE.gamma, help="(default: %(default)s)")
    add("--reference-scale", type=float, default=REFERENCE.scale, help="(default: %(default)s)")
    add("--pseudocount-distance", type=float, default=5000.0, help="bp (default: %(default)s)")
    add(
        "--tss-contribution",
        type=float,
        default=100.0,
        help="per cent of the larger neighbour that the diagonal gets (default: %(default)s)",
    )


def contact_source(args: argparse.Namespace) -> ContactSource:
    """Turns parsed options into a ContactSource.

    Raises:
      ValueError: the file cannot be read, or lacks the resolution.
    """
    file = None
    if args.contact:
        order = args.contact_normalisation
        file = open_contacts(
            args.contact,
            resolution_bp=args.contact_resolution,
            normalisations=order.split(",") if order else None,
            divide_by_row_sum=args.divide_by_row_sum,
        )
    return ContactSource(
        file=file,
        observed=PowerLaw(args.gamma, args.scale),
        reference=PowerLaw(args.reference_gamma, args.reference_scale),
        pseudocount_distance_bp=args.pseudocount_distance,
        tss_contribution_percent=args.tss_contribution,
        contigs=read_contig_lengths(args.contigs) if args.contigs else None,
        aliases=read_aliases(args.aliases) if args.aliases else {},
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep contact`."""
    add_contact_arguments(parser)
    add = parser.add_argument
    add("--contigs", help="contig lengths of the genome: chrom.sizes or .fai")
    add("--aliases", help="table found<TAB>expected of contig names")
    add("--max-distance", type=int, default=5_000_000, help="bp kept (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace an older output folder")
    add("--out", required=True, help="folder of chr*.tsv.gz files (x1, x2, contact)")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 0.

    Raises:
      ValueError: an input is missing or malformed.
    """
    if not args.contact:
        raise ValueError("--contact is missing; give a .hic, .cool, .mcool or bedpe file")
    lines: list[str] = []
    if os.path.isfile(args.contact) and not is_matrix(args.contact) and not args.divide_by_row_sum:
        counts = export_text(
            args.contact, args.out, resolution_bp=args.contact_resolution, overwrite=args.overwrite
        )
    else:
        source = contact_source(args)
        counts = export_maps(
            source, args.out, max_distance_bp=args.max_distance, overwrite=args.overwrite
        )
        lines = source.describe()
    for chrom, count in counts.items():
        print(f"{chrom}: {count:,} contacts")
    for line in lines:
        print(line)
    print(f"wrote {args.out}")
    return 0
