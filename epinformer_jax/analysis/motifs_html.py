"""The page of motif discovery: each pattern with its logo, its matches and their logos.

Logos are drawn here as SVG, so that the page needs nothing beside itself.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from epinformer_jax.analysis.report_html import CSS, escape, html_table

LETTERS = "ACGT"
COLOURS = {"A": "#2f8f4e", "C": "#2f6db5", "G": "#d98e04", "T": "#c0392b"}
COLUMN_PX, HEIGHT_PX = 16, 84
MATCHES_SHOWN = 3
# Outlines in a unit square, y downwards; holes by the even-odd rule.
OUTLINES = {
    "A": "M0 1L.38 0H.62L1 1H.79L.71 .76H.29L.21 1ZM.35 .6H.65L.5 .16Z",
    "C": "M.99 .66C.95 .88 .77 1 .53 1C.22 1 0 .8 0 .5C0 .2 .22 0 .53 0C.77 0 .94 .12 .98 .32"
    "H.76C.73 .22 .65 .17 .53 .17C.34 .17 .21 .29 .21 .5C.21 .71 .34 .83 .53 .83"
    "C.66 .83 .74 .77 .77 .66Z",
    "G": "M.99 .47V.86C.88 .95 .73 1 .55 1C.22 1 0 .8 0 .5C0 .2 .22 0 .54 0C.77 0 .94 .12 .98 .31"
    "H.76C.73 .22 .65 .17 .54 .17C.34 .17 .21 .3 .21 .5C.21 .71 .34 .83 .56 .83"
    "C.65 .83 .73 .81 .79 .77V.62H.56V.47Z",
    "T": "M0 0H1V.18H.61V1H.39V.18H0Z",
}
STYLE = """
svg.logo { display: block; max-width: 100%; height: auto; margin: .2rem 0; }
.pattern { margin: 1.6rem 0 2.4rem; }
.pattern h3 { font-size: 1rem; margin: 0 0 .2rem; }
.logos { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .8rem 2rem; }
.logos figure { align-self: end; }
.logos figure:first-child { grid-column: 1 / -1; }
"""


def information(probabilities: Float[np.ndarray, "4 W"]) -> Float[np.ndarray, "4 W"]:
    """Heights of a logo in bits: each base's share of its position's information."""
    shares = np.clip(probabilities, 1e-9, 1)
    bits = 2 + (shares * np.log2(shares)).sum(axis=0, keepdims=True)
    return probabilities * np.maximum(bits, 0)


def logo(heights: Float[np.ndarray, "4 W"], description: str, *, top: float | None = None) -> str:
    """An SVG logo; letters stack away from the middle line, the largest outside, negative ones
    below it. `top` is the height of the whole axis; that of the highest stack without it.
    """
    width = heights.shape[1]
    above, below = (np.maximum(sign * heights, 0).sum(axis=0).max() for sign in (1, -1))
    scale = HEIGHT_PX / max(top or 0, above + below, 1e-9)
    base = HEIGHT_PX if top else above * scale
    parts = []
    for position, column in enumerate(heights.T):
        for sign in (1, -1):
            level = 0.0
            for index in np.argsort(np.abs(column)):
                height = sign * column[index] * scale
                if height <= 0.05:
                    continue
                y = base - level - height if sign > 0 else base + level
                level += height
                letter = LETTERS[index]
                parts.append(
                    f'<path transform="translate({position * COLUMN_PX + 0.5} {y:.2f}) '
                    f'scale({COLUMN_PX - 1} {height:.2f})" fill="{COLOURS[letter]}" '
                    f'd="{OUTLINES[letter]}"/>'
                )
    total = HEIGHT_PX if top else (above + below) * scale
    return (
        f'<svg class="logo" role="img" aria-label="{escape(description)}" '
        f'width="{width * COLUMN_PX}" height="{total + 1:.0f}" fill-rule="evenodd" '
        f'viewBox="0 0 {width * COLUMN_PX} {total + 1:.2f}">'
        f'<line x1="0" x2="{width * COLUMN_PX}" y1="{base + 0.5:.2f}" y2="{base + 0.5:.2f}" '
        f'stroke="#8a8f98" stroke-width=".7"/>{"".join(parts)}</svg>'
    )


def page(
    title: str,
    facts: str,
    patterns: pd.DataFrame,
    matches: pd.DataFrame,
    contributions: Mapping[str, Float[np.ndarray, "4 _"]],
    motifs: Mapping[str, Float[np.ndarray, "4 _"]],
) -> str:
    """The whole page. `contributions` are the patterns' mean contributions, `motifs` the matrices
    of what they match, by id.
    """
    body = [f"<h1>{escape(title)}</h1>", f'<p class="facts">{escape(facts)}</p>']
    if patterns.empty:
        body.append('<p class="warning">No pattern was found.</p>')
    else:
        body.append("<h2>Patterns</h2>")
        body.append(_overview(patterns))
        body.append(
            '<p class="note">Seqlets are the places that a pattern is made of; one of a few dozen '
            "is weak evidence, however small its q. q: Tomtom, Benjamini-Hochberg over all "
            "patterns and motifs.</p>"
        )
        body.append("<h2>Logos</h2>")
        for row in patterns.to_dict("records"):
            own = matches[matches["pattern"] == row["pattern"]].head(MATCHES_SHOWN)
            body.append(_section(row, own, contributions[row["pattern"]], motifs))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}{STYLE}</style></head>\n"
        f"<body>{chr(10).join(body)}</body></html>\n"
    )


def _overview(patterns: pd.DataFrame) -> str:
    header = ["pattern", "seqlets", "consensus", "mean contribution", "best match", "q"]
    rows: list[tuple[str, Sequence[str]]] = []
    for row in patterns.to_dict("records"):
        cells = [
            f'<a href="#{escape(row["pattern"])}">{escape(row["pattern"])}</a>',
            f"{row['seqlets']:,}",
            f"<code>{escape(row['consensus'])}</code>",
            f"{row['mean_contribution']:.3g}",
            escape(row["best_match"] or "–"),
            f"{row['q']:.2g}" if row["best_match"] else "–",
        ]
        rows.append(("model" if row["is_match"] else "", cells))
    return html_table(header, rows, text_columns=(0, 2, 4))


def _section(row, matches: pd.DataFrame, contribution, motifs) -> str:
    name = row["pattern"]
    figures = [
        f"<figure>{logo(contribution, f'{name}: mean contribution of each base')}"
        f"<figcaption>mean contribution, {row['seqlets']:,} seqlets; highest stack "
        f"{np.abs(contribution).sum(axis=0).max():.2g}</figcaption></figure>"
    ]
    for match in matches.to_dict("records"):
        probabilities = motifs[match["motif"]]
        if match["strand"] == "-":
            probabilities = probabilities[::-1, ::-1]
        heights = information(probabilities)
        told = f"{match['motif']} {match['name']}".strip()
        figures.append(
            f"<figure>{logo(heights, f'{told}: information', top=2.0)}<figcaption>"
            f"{escape(told)} ({escape(match['strand'])}), q {match['q']:.2g}</figcaption></figure>"
        )
    return (
        f'<div class="pattern" id="{escape(name)}"><h3>{escape(name)}</h3>'
        f'<div class="logos">{"".join(figures)}</div></div>'
    )
