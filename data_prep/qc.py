"""The QC page of a run: one HTML file, self-contained, drawn from the stages' own outputs."""

import html
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep import svg
from data_prep.power_law import OBSERVED
from data_prep.stages import RECORD
from epinformer_jax.data.atomic import atomic_file
from epinformer_jax.data.chromosomes import natural_order

PAGE = "qc.html"
DATASET_FILE = "dataset.json"
_OFFSET = 0.1
_CONTACT_OFFSET = 1e-4
_BINS = 20
_STYLE = """
body{font:15px/1.45 sans-serif;max-width:1240px;margin:24px auto;padding:0 16px;color:#222}
table{border-collapse:collapse;margin:8px 0 16px}th,td{border:1px solid #ccc;padding:3px 9px}
td{text-align:right}td:first-child,th{text-align:left}
.charts{display:flex;flex-wrap:wrap;gap:10px}.note{color:#9c4221}
"""


def write_page(folder: str | os.PathLike, title: str) -> Path:
    """Writes qc.html over all cell types of a run directory; returns its path.

    Raises:
      ValueError: no cell type there has been prepared.
    """
    folder = Path(folder)
    cells = natural_order(path.parent.name for path in folder.glob(f"*/{DATASET_FILE}"))
    if not cells:
        raise ValueError(f"{folder}: no cell type has been prepared there")
    parts = [f"<h1>{html.escape(title)}: preparation</h1>", _overview(folder, cells)]
    parts += [_section(folder / cell) for cell in cells]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}'
        f"</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    with atomic_file(folder / PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / PAGE


def _overview(folder: Path, cells: list[str]) -> str:
    rows = []
    for cell in cells:
        dataset = _json(folder / cell / DATASET_FILE)
        made = _json(folder / cell / "records" / "genes" / "manifest.json")["counts"]
        rows.append(
            {
                "cell type": cell,
                "preset": dataset["preset"],
                "label": dataset["label"] or "none",
                "genes": made["genes"],
                "elements in records": made["elements"],
                "genes without elements": made["genes_without_elements"],
            }
        )
    return _table(pd.DataFrame(rows))


def _section(place: Path) -> str:
    dataset = _json(place / DATASET_FILE)
    elements = pd.read_csv(place / "signals" / "elements.tsv.gz", sep="\t")
    links = pd.read_csv(place / "links" / "links.tsv.gz", sep="\t", comment="#")
    genes = pd.read_csv(place / "genes" / "genes.tsv", sep="\t")
    charts = [
        svg.histogram(
            np.log10(_OFFSET + elements["activity"]),
            title="activity of elements",
            x="log10(0.1 + RPM)",
        ),
        svg.histogram(
            np.log10(_OFFSET + genes["promoter_activity"]),
            title="activity of promoters",
            x="log10(0.1 + RPM)",
        ),
        svg.histogram(
            elements["end"] - elements["start"], title="length of elements", x="base pairs"
        ),
        svg.histogram(links_per_gene(links, genes), title="links of a gene", x="links"),
        _distance_chart(links),
        _contact_chart(links),
    ]
    if dataset["label"]:
        charts.append(svg.histogram(genes[dataset["label"]], title="label", x=dataset["label"]))
    notes = "".join(f'<li class="note">{html.escape(note)}</li>' for note in dataset["notes"])
    lines = _json(place / "links" / "links.json")["contact"]
    contacts = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return (
        f"<h2>{html.escape(dataset['cell_type'])}</h2><ul>{notes}</ul>"
        f"<h3>Reads</h3>{_table(_reads(place))}"
        f"<h3>Counts</h3>{_table(_counts(place, elements, links))}<ul>{contacts}</ul>"
        f'<div class="charts">{"".join(charts)}</div>'
        f"<h3>Left out</h3>{_table(left_out(place))}"
        f"<h3>Stages</h3>{_table(_stages(place))}"
    )


def links_per_gene(links: pd.DataFrame, genes: pd.DataFrame) -> np.ndarray:
    """Number of links of every gene, 0 included, in the order of the genes."""
    count = links["gene_id"].value_counts()
    return genes["gene_id"].map(count).fillna(0).to_numpy(np.int64)


def contact_by_distance(links: pd.DataFrame) -> pd.DataFrame:
    """Links in bins of log10 distance: distance_bp (geometric middle), n, median and mean contact.

    Bins without a link are left out, and so are links nearer than 1 kb.
    """
    distance = links["distance"].abs().to_numpy(np.float64)
    far = distance >= 1000
    if not far.any():
        return pd.DataFrame({name: [] for name in ("distance_bp", "n", "median", "mean")})
    logs = np.log10(distance[far])
    edges = np.linspace(3.0, max(logs.max(), 3.0) + 1e-9, _BINS + 1)
    number = np.clip(np.digitize(logs, edges) - 1, 0, _BINS - 1)
    grouped = links["contact"][far].groupby(number)
    middle = 10 ** ((edges[:-1] + edges[1:]) / 2)
    table = grouped.agg(["size", "median", "mean"]).rename(columns={"size": "n"})
    table.insert(0, "distance_bp", middle[table.index])
    return table.reset_index(drop=True)


def left_out(place: str | os.PathLike) -> pd.DataFrame:
    """What every stage of a cell type left out: stage, reason, rows."""
    rows = []
    for path in sorted(Path(place).glob("*/*dropped.tsv")):
        table = pd.read_csv(path, sep="\t", usecols=["reason"])
        for reason, count in table["reason"].value_counts(sort=False).items():
            rows.append({"stage": path.parent.name, "reason": reason, "rows": int(count)})
    return pd.DataFrame(rows, columns=["stage", "reason", "rows"])


def _distance_chart(links: pd.DataFrame) -> str:
    distance = links["distance"].abs().to_numpy(np.float64) / 1000
    return svg.histogram(distance, title="distance of links", x="kb")


def _contact_chart(links: pd.DataFrame) -> str:
    table = contact_by_distance(links)
    away = table["distance_bp"].to_numpy(np.float64)
    lines = {
        name: (np.log10(away), np.log10(_CONTACT_OFFSET + table[name].to_numpy(np.float64)))
        for name in ("median", "mean")
    }
    law = OBSERVED.contact(away)
    lines["power law"] = (np.log10(away), np.log10(_CONTACT_OFFSET + law))
    return svg.curves(
        lines, title="contact by distance", x="log10 distance, bp", y="log10(contact + 0.0001)"
    )


def _reads(place: Path) -> pd.DataFrame:
    summary = _json(place / "signals" / "elements.json")
    rows = [
        {"signal": name, "file": Path(file).name, "total": total, "unit": detail["unit"]}
        for name, detail in summary["signals"].items()
        for file, total in zip(detail["files"], detail["totals"], strict=True)
    ]
    return pd.DataFrame(rows)


def _counts(place: Path, elements: pd.DataFrame, links: pd.DataFrame) -> pd.DataFrame:
    chosen = _json(place / "candidates" / "elements.json")
    linked = _json(place / "links" / "links.json")
    rows = [
        ("peaks", chosen["peaks"]),
        ("elements", len(elements)),
        *((f"elements, {name}", n) for name, n in (chosen["classes"] or {}).items()),
        ("elements longer than 2,000 bp", chosen["longer_than_2000_bp"]),
        ("elements without activity", int((elements["activity"] == 0).sum())),
        ("genes", linked["genes"]),
        ("genes without links", linked["genes_without_links"]),
        ("links", len(links)),
        ("links without contact", int((links["contact"] == 0).sum())),
    ]
    if (place / "windows" / "windows.json").is_file():
        made = _json(place / "windows" / "windows.json")
        rows += [("windows", made["windows"]), ("places of negatives", made["negatives"])]
    return pd.DataFrame(rows, columns=["what", "number"])


def _stages(place: Path) -> pd.DataFrame:
    records = [_json(path) for path in sorted(place.glob(f"*/{RECORD}"))]
    rows = [{"stage": one["stage"], "seconds": one["seconds"]} for one in records]
    return pd.DataFrame(rows)


def _table(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "<p>none</p>"
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in frame.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_shown(value))}</td>" for value in row) + "</tr>"
        for row in frame.itertuples(index=False)
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _shown(value: Any) -> str:
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return f"{value:,.6g}" if isinstance(value, float | np.floating) else str(value)


def _json(path: Path) -> Mapping[str, Any]:
    return json.loads(path.read_text())
