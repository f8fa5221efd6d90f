"""Small charts as inline SVG text: bars of a histogram, and curves. No drawing library needed."""

import html
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Real

_WIDTH, _HEIGHT = 380, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 26, 44
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b7791f", "#97266d")


def histogram(
    values: Real[np.ndarray, " n"],
    *,
    title: str,
    x: str,
    bins: int = 40,
    y: str = "number",
    clip_share: float = 0.0,
) -> str:
    """Bars over equal bins of the finite values; without any, a chart that says so.

    With `clip_share` a long tail is cut off: where the largest values, at most this share of all,
    take more than a third of the width. The chart then says how many lie beyond.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return _frame(title, x, y, [_note("no values")])
    shown, beyond = _without_tail(values, clip_share)
    counts, edges = np.histogram(shown, bins=bins)
    across = _Scale(edges[0], edges[-1], _LEFT, _WIDTH - _RIGHT)
    up = _Scale(0.0, float(counts.max()), _HEIGHT - _BOTTOM, _TOP)
    bars = [
        f'<rect x="{across(left):.1f}" y="{up(count):.1f}" '
        f'width="{max(across(right) - across(left) - 0.5, 0.5):.1f}" '
        f'height="{up(0) - up(count):.1f}" fill="{COLOURS[0]}"/>'
        for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True)
        if count
    ]
    if beyond:
        bars.append(
            f'<text x="{_WIDTH - _RIGHT - 4}" y="{_TOP + 12}" text-anchor="end">{beyond}</text>'
        )
    return _frame(title, x, y, [*bars, *across.ticks_x(), *up.ticks_y()])


def _without_tail(values: np.ndarray, share: float) -> tuple[np.ndarray, str]:
    """The values without a long upper tail, and what is said of it ("" where there is none)."""
    limit, largest = np.quantile(values, 1 - share, method="higher"), values.max()
    if largest - limit <= (largest - values.min()) / 3 or limit == values.min():
        return values, ""
    is_beyond = values > limit
    return values[~is_beyond], (
        f"{100 * is_beyond.mean():.2g} % beyond {limit:,.5g}, up to {largest:,.5g}"
    )


def curves(
    lines: Mapping[str, tuple[Real[np.ndarray, " n"], Real[np.ndarray, " n"]]],
    *,
    title: str,
    x: str,
    y: str,
) -> str:
    """Lines through points (x, y), one a name, with a legend; points that are not finite are gaps.

    A chart without any point says so.
    """
    kept = {}
    for name, (across_values, up_values) in lines.items():
        points = np.array([across_values, up_values], np.float64)
        kept[name] = points[:, np.isfinite(points).all(axis=0)]
    every = np.concatenate([np.zeros((2, 0)), *kept.values()], axis=1)
    if not every.size:
        return _frame(title, x, y, [_note("no values")])
    across = _Scale(every[0].min(), every[0].max(), _LEFT, _WIDTH - _RIGHT)
    up = _Scale(every[1].min(), every[1].max(), _HEIGHT - _BOTTOM, _TOP)
    drawn = []
    for number, (name, points) in enumerate(kept.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in points.T)
        drawn.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        )
        drawn.append(
            f'<text x="{_WIDTH - _RIGHT - 4}" y="{_TOP + 12 + 13 * number}" text-anchor="end" '
            f'fill="{colour}">{html.escape(name)}</text>'
        )
    return _frame(title, x, y, [*drawn, *across.ticks_x(), *up.ticks_y()])


class _Scale:
    """Maps a range of values to a range of pixels; an empty range is widened."""

    def __init__(self, low: float, high: float, first: float, last: float):
        if high <= low:
            low, high = low - 0.5, high + 0.5
        self._low, self._high, self._first, self._last = float(low), float(high), first, last

    def __call__(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return self._first + share * (self._last - self._first)

    def _ticks(self) -> list[tuple[float, str]]:
        span = self._high - self._low
        step = 10.0 ** np.floor(np.log10(span))
        step *= next(part for part in (0.2, 0.5, 1.0, 2.0) if span / (step * part) <= 5.5)
        values = np.arange(np.ceil(self._low / step), np.floor(self._high / step) + 1) * step
        return [(value, f"{value + 0.0:.6g}") for value in values]

    def ticks_x(self) -> list[str]:
        """Marks and numbers under the chart."""
        y = _HEIGHT - _BOTTOM
        return [
            f'<line x1="{self(v):.1f}" y1="{y}" x2="{self(v):.1f}" y2="{y + 4}" stroke="#666"/>'
            f'<text x="{self(v):.1f}" y="{y + 16}" text-anchor="middle">{text}</text>'
            for v, text in self._ticks()
        ]

    def ticks_y(self) -> list[str]:
        """Marks and numbers left of the chart."""
        return [
            f'<line x1="{_LEFT - 4}" y1="{self(v):.1f}" x2="{_LEFT}" y2="{self(v):.1f}" '
            f'stroke="#666"/><text x="{_LEFT - 7}" y="{self(v) + 4:.1f}" '
            f'text-anchor="end">{text}</text>'
            for v, text in self._ticks()
        ]


def _note(text: str) -> str:
    return f'<text x="{_WIDTH / 2}" y="{_HEIGHT / 2}" text-anchor="middle">{text}</text>'


def _frame(title: str, x: str, y: str, parts: Sequence[str]) -> str:
    bottom = _HEIGHT - _BOTTOM
    middle = (_TOP + bottom) / 2
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            f'width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="11" '
            f'role="img" aria-label="{html.escape(title, quote=True)}">',
            f'<text x="{_LEFT}" y="15" font-size="13">{html.escape(title)}</text>',
            f'<path d="M{_LEFT} {_TOP}V{bottom}H{_WIDTH - _RIGHT}" fill="none" stroke="#666"/>',
            *parts,
            f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}" '
            f'text-anchor="middle">{html.escape(x)}</text>',
            f'<text x="13" y="{middle}" text-anchor="middle" '
            f'transform="rotate(-90 13 {middle})">{html.escape(y)}</text>',
            "</svg>",
        ]
    )
