"""The HTML that the report is written in: style, tables, figures, numbers with their intervals.

What is given as text is escaped here; table cells are HTML already.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from epinformer_jax.analysis.report_run import number

CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.2rem 1.5rem 4rem; max-width: 62rem; background: #fff;
  color: #24292f; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
  Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-bottom: .25rem;
  border-bottom: 1px solid #d8dce2; }
p { margin: .5rem 0; }
.facts { color: #57606a; margin: 0; overflow-wrap: anywhere; }
.headline { margin: 1.4rem 0; padding: .9rem 1.1rem; border-left: 4px solid #0072b2;
  background: #f3f7fb; font-size: 1.08rem; }
.warning { margin: 1rem 0; padding: .7rem 1.1rem; border-left: 4px solid #d55e00;
  background: #fdf4ee; }
.note, figcaption { color: #57606a; font-size: .88rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .5rem; text-align: right; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid #e6e8ec; }
th { font-weight: 600; border-bottom: 1px solid #8a8f98; }
th.text, td.text { text-align: left; white-space: normal; }
tr.model td { font-weight: 650; background: #f3f7fb; }
.interval { display: block; color: #57606a; font-size: .8rem; font-weight: 400; }
figure { margin: 1.2rem 0; }
figure img { display: block; max-width: 100%; height: auto; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .5rem 1rem;
  margin: .8rem 0; font-size: .9rem; }
dt { color: #57606a; font-size: .8rem; }
dd { margin: 0; overflow-wrap: anywhere; }
.fields { columns: 20rem; column-gap: 2rem; font: .76rem/1.6 ui-monospace, SFMono-Regular, Menlo,
  Consolas, monospace; list-style: none; padding: 0; overflow-wrap: anywhere; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2, figcaption { break-after: avoid; }
  figure, tr, .headline, .warning { break-inside: avoid; }
  .scroll { overflow: visible; }
  th, td { padding: .25rem .35rem; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""


def escape(value: Any) -> str:
    """A value as text that is safe between tags and in attributes."""
    return html.escape(str(value), quote=True)


def number_text(value: float, *, signed: bool = False) -> str:
    """Three decimals, none from 1,000 on; a true minus sign, and none before a zero."""
    if not np.isfinite(value):
        return "undefined"
    rounded = round(value, 3) + 0.0  # -0.0 becomes 0.0
    sign = "+" if signed else ""
    text = f"{rounded:{sign}.3f}" if abs(value) < 1000 else f"{value:{sign},.0f}"
    return text.replace("-", "\N{MINUS SIGN}")


def interval_text(interval: Mapping[str, Any], *, signed: bool = False) -> str:
    """[low, high], or nothing where the interval is undefined."""
    low, high = (number_text(number(interval[end]), signed=signed) for end in ("low", "high"))
    return "" if "undefined" in (low, high) else f"[{low}, {high}]"


def with_interval(interval: Mapping[str, Any], *, signed: bool = False) -> str:
    """value [low, high]"""
    value = number_text(number(interval["value"]), signed=signed)
    return f"{value} {interval_text(interval, signed=signed)}".strip()


def score_cell(interval: Mapping[str, Any] | None) -> str:
    """A value above its interval, as HTML."""
    if interval is None:
        return "–"
    text = interval_text(interval)
    below = f'<span class="interval">{text}</span>' if text else ""
    return f"{number_text(number(interval['value']))}{below}"


def html_table(
    header: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str]]],
    *,
    text_columns: Sequence[int] = (0,),
) -> str:
    """An HTML table; a row is its class and its cells, which are HTML already."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="text">{cell}</{tag}>'
            if column in text_columns
            else f"<{tag}>{cell}</{tag}>"
            for column, cell in enumerate(cells)
        )

    body = "\n".join(
        f'<tr class="{kind}">{line("td", cells)}</tr>' if kind else f"<tr>{line('td', cells)}</tr>"
        for kind, cells in rows
    )
    head = line("th", [escape(cell) for cell in header])
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def html_figure(uri: str, description: str, caption: str, *, width: int | None = None) -> str:
    """An image with its description and caption; `width` in CSS pixels."""
    size = f' width="{width}"' if width else ""
    return (
        f'<figure><img src="{uri}" alt="{escape(description)}"{size}>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
