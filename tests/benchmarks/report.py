"""What the benchmark says: a table for the terminal, one page of HTML with its figures inside."""

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure

from epinformer_jax.analysis import plots
from epinformer_jax.analysis.report_html import CSS, escape, html_figure, html_table
from tests.benchmarks.table import BETTER_LAYOUT

Row = list[str]
HEADER = (
    *("job", "allocator", "PyTorch", "ours", "time", "faster", "to its fastest"),
    *("channels last", "target", ""),
)
CURVES = {
    "genes": "genes in a batch",
    "elements": "elements of a gene",
    "bases": "bases of each of 20 elements",
    "slots": "slots of the model, 15 elements",
}


def text(found: dict[str, Any]) -> str:
    """The table and what belongs to it, for a terminal."""
    lines = [*_facts(found), ""]
    rows = [list(HEADER), *(cells for _, cells in _rows(found))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        lines.append("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
    lines += ["", *_notes(found)]
    lines += [f"ERROR {error}" for error in found["errors"]]
    return "\n".join(lines)


# The table has ten columns, the verdict last: more room than a report's, and names of references
# that break, so that it is seen on a usual screen.
WIDE = (
    "body { max-width: 96rem; } table { font-size: .78rem; } td:first-child { min-width: 12rem; }"
    " td:nth-child(3) { white-space: normal; min-width: 7rem; }"
)


def page(found: dict[str, Any]) -> str:
    """The report as one HTML page that needs nothing else."""
    rows = [("", [escape(cell) for cell in cells]) for _, cells in _rows(found)]
    parts = [f"<p class='facts'>{escape(fact)}</p>" for fact in _facts(found)]
    parts += [f"<p class='warning'>{escape(error)}</p>" for error in found["errors"]]
    parts.append(html_table(HEADER, rows, text_columns=(0, 1, 3, 8, 9)))
    parts += [f"<p class='note'>{escape(note)}</p>" for note in _notes(found)]
    if found["lines"]:
        figure = plots.svg_data_uri(speed_figure(found["lines"]))
        caption = "How many times faster, with the least and most of all rounds; targets as bars."
        parts.append(html_figure(figure, "speed of each line", caption))
    if "sweep" in found:
        figure = plots.svg_data_uri(sweep_figure(found["sweep"]))
        parts.append(html_figure(figure, "cost by genes, elements and bases", _sweep_text(found)))
    parts.append("<h2>Rounds</h2>" + _rounds_table(found))
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>Benchmark</title><style>{CSS}{WIDE}</style></head><body>\n"
        f"<h1>Speed beside PyTorch</h1>\n{body}\n</body></html>\n"
    )


def ratios(line: dict[str, Any]) -> str:
    """How many times faster each of ours is than the first reference, in one line."""
    first = next(n for n, own in line["contenders"].items() if own["side"] == "reference")
    return ", ".join(f"{name} {_ratio(own[first])}" for name, own in line["ratios"].items())


def duration(seconds: float) -> str:
    """12.3 ms, 4.56 s, 21 min"""
    if seconds >= 600:
        return f"{seconds / 60:.0f} min"
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def size(count: float) -> str:
    """1.2 KB, 3.4 GB (powers of ten)"""
    for unit, power in (("GB", 1e9), ("MB", 1e6)):
        if count >= power:
            return f"{count / power:.3g} {unit}"
    return f"{count / 1e3:.3g} KB"


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, Row]]:
    """Name of the line and its cells; a row for each of our contenders."""
    for line in found["lines"]:
        yield from _line_rows(line)
    for memory in found.get("memory", []):
        ours, largest, reference = (memory["bytes"][k] for k in ("usual", "largest", "reference"))
        yield (
            "memory",
            [
                f"peak memory, train step, batch {memory['batch']}",
                memory["allocator"],
                size(reference),
                memory["ours"],
                f"{size(ours)} (largest batch {size(largest)})",
                f"{reference / ours:.1f}x less (largest {reference / largest:.1f}x)",
                "",
                "",
                f"{1 / memory['at_most']:.0f}x less",
                _verdict(memory),
            ],
        )
    for target in found.get("disk", {}).get("targets", []):
        dense = found["disk"]["dense_float32"]
        yield (
            "disk",
            [
                "bytes a gene on disk",
                "",
                size(dense),
                target["ours"],
                size(target["found"]),
                f"{dense / target['found']:.0f}x less",
                "",
                "",
                f"at most {size(target['at_most'])}",
                _verdict(target),
            ],
        )


def _line_rows(line: dict[str, Any]) -> Iterator[tuple[str, Row]]:
    """Means, as the ratios are made of; a row for each reference but the better layout."""
    references = [n for n, c in line["contenders"].items() if c["side"] == "reference"]
    first = references[0]
    for name, ratios in line["ratios"].items():
        mine = line["contenders"][name]["seconds_per_unit"]
        for reference in references:
            if reference == BETTER_LAYOUT:
                continue
            is_first = reference == first
            theirs = duration(line["contenders"][reference]["seconds_per_unit"]["mean"])
            better = ratios.get(BETTER_LAYOUT) if is_first else None
            targets = [
                target
                for target in line["targets"]
                if target["ours"] == name and target["against"] == reference
            ]
            cells = [
                line["title"] if is_first else "",
                line["allocator"] if is_first else "",
                f"{theirs} / {line['unit']}" if is_first else f"{theirs} ({reference})",
                name,
                f"{duration(mine['mean'])} [{duration(mine['low'])}-{duration(mine['high'])}]",
                _ratio(ratios[reference]),
                _times(ratios[reference]["to_fastest"]),
                _times(better["value"]) if better else "",
                "; ".join(map(_target, targets)),
                "; ".join(map(_verdict, targets)),
            ]
            yield line["line"], cells


def _ratio(ratio: dict[str, float]) -> str:
    low, high = (_times(ratio[end]).removesuffix("x") for end in ("low", "high"))
    return f"{_times(ratio['value'])} [{low}-{high}]"


def _times(value: float) -> str:
    return f"{value:,.0f}x" if value >= 100 else f"{value:.1f}x"


def _target(target: dict[str, Any]) -> str:
    return f"{'stretch ' if target['stretch'] else ''}{target['at_least']:,g}x"


def _verdict(target: dict[str, Any]) -> str:
    if target["passed"]:
        return "reached"
    return "not reached (stretch)" if target.get("stretch") else "MISSED"


def _facts(found: dict[str, Any]) -> list[str]:
    machine, genes = found["machine"], found.get("occupancy", {})
    facts = [
        f"{machine['processor']}, {machine['threads']} threads of {machine['cpus']} CPUs, "
        f"{machine['system']}, huge pages {machine['huge_pages']}"
    ]
    if genes:
        facts.append(
            f"{genes['genes']:,} genes: {genes['source']}; {genes['elements_per_gene_mean']:.1f} "
            f"elements a gene, {100 * genes['rows_filled']:.0f} % of 61 slots and "
            f"{100 * genes['positions_filled']:.0f} % of their positions filled"
        )
    if "networks" in found:
        weights = "; ".join(f"{kind}: {source}" for kind, source in found["networks"].items())
        facts.append(f"weights: {weights}")
    if "exactness" in found:
        ways = found["exactness"]["differences"]
        worst = {
            name: max(way[name] for way in ways.values() if name in way)
            for name in found["exactness"]["limits"]
        }
        told = ", ".join(f"{name} {away:.1g}" for name, away in worst.items())
        facts.append(f"float64 against PyTorch ({', '.join(ways)}): {told}")
    return facts


def _notes(found: dict[str, Any]) -> list[str]:
    notes = sorted({line["note"] for line in found["lines"] if line["note"]})
    for line in found["lines"]:
        for name, contender in line["contenders"].items():
            spent = ", ".join(
                f"{what.removesuffix('_s').replace('_', ' ')} "
                + (size(value) if what.endswith("bytes") else duration(value))
                for what, value in contender["one_off"].items()
            )
            if spent:
                notes.append(f"{line['line']}, {line['allocator']}, {name}, beside: {spent}")
    busiest = max(
        [c["other_processes_cpus"] for line in found["lines"] for c in line["contenders"].values()],
        default=0.0,
    )
    if busiest > 0.1:
        notes.append(f"other processes kept up to {busiest:.1f} CPUs busy: not a quiet machine")
    if found.get("left_out"):
        notes.append(f"left out for want of time: {'; '.join(found['left_out'])}")
    if "sweep" in found:
        notes.append(_sweep_text(found))
    if "accelerator" in found:
        notes += found["accelerator"]["text"]
    return notes


def _sweep_text(found: dict[str, Any]) -> str:
    line = found["sweep"]["line"]
    few, *_, many = found["sweep"]["curves"]["slots"]
    return (
        f"Time a gene against its real bases: {line['ms_at_0']:.2g} ms + "
        f"{line['ms_per_kb']:.2g} ms a kb, r2 {line['r_squared']:.3f}; "
        f"{many['x'] / few['x']:.1f} times the slots cost "
        f"{many['ms_per_gene'] / few['ms_per_gene']:.2f} times the time"
    )


def _rounds_table(found: dict[str, Any]) -> str:
    rows = []
    for line in found["lines"]:
        for name, contender in line["contenders"].items():
            spent = contender["seconds_per_unit"]
            cells = [
                line["line"],
                line["allocator"],
                name,
                f"{duration(spent['mean'])} / {line['unit']}",
                duration(spent["median"]),
                f"{duration(spent['low'])} - {duration(spent['high'])}",
                f"{spent['runs']} in {spent['rounds']}",
                f"{contender['other_processes_cpus']:.2f}",
                f"{line['agreement']:.1g} of {line['tolerance']:g}",
            ]
            rows.append(("", [escape(cell) for cell in cells]))
    header = (
        "line",
        "allocator",
        "who",
        "mean",
        "median",
        "rounds",
        "runs",
        "CPUs of others",
        "apart",
    )
    return html_table(header, rows, text_columns=(0, 1, 2))


def speed_figure(lines: list[dict[str, Any]]) -> Figure:
    """A point with its spread for each line, contender and allocator; bars are targets."""
    entries = [
        (line, name, *next(iter(ratios.items())))
        for line in lines
        for name, ratios in line["ratios"].items()
    ]
    figure = Figure(figsize=(11, 1 + 0.28 * len(entries)), layout="constrained")
    axes = figure.subplots()
    for row, (line, name, against, ratio) in enumerate(entries):
        colour = plots.BLUE if line["allocator"] == "hugetlb" else plots.ORANGE
        axes.plot([ratio["low"], ratio["high"]], [row, row], color=colour, linewidth=2)
        axes.plot(ratio["value"], row, "o", color=colour, markersize=5)
        for target in line["targets"]:
            if (target["ours"], target["against"]) == (name, against):
                axes.plot(target["at_least"], row, "|", color=plots.DARK, markersize=12)
    axes.set_yticks(range(len(entries)))
    labels = [f"{line['title']}, {name} ({line['allocator']})" for line, name, *_ in entries]
    axes.set_yticklabels(labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("times faster than PyTorch on the dense batch")
    return figure


def sweep_figure(sweep: dict[str, Any]) -> Figure:
    """Time a gene by genes, elements, bases and slots, and against real bases."""
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    for axes, (name, title) in zip(panels, CURVES.items(), strict=False):
        points = sweep["curves"][name]
        axes.plot(
            [p["x"] for p in points], [p["ms_per_gene"] for p in points], "o-", color=plots.BLUE
        )
        axes.set(xlabel=title, ylabel="ms a gene", ylim=(0, None))
    axes, line = panels[4], sweep["line"]
    for colour, (name, points) in zip(
        (plots.ORANGE, plots.BLUE, plots.GREEN, plots.VERMILLION),
        sweep["curves"].items(),
        strict=True,
    ):
        x = [p["bases_per_gene"] / 1000 for p in points]
        axes.plot(x, [p["ms_per_gene"] for p in points], "o", color=colour, label=name)
    far = max(p["bases_per_gene"] for points in sweep["curves"].values() for p in points) / 1000
    ends = [line["ms_at_0"], line["ms_at_0"] + line["ms_per_kb"] * far]
    axes.plot([0, far], ends, color=plots.GREY, linewidth=1)
    axes.set(xlabel="real bases a gene, kb", ylabel="ms a gene", ylim=(0, None))
    axes.legend(fontsize=7)
    panels[5].set_visible(False)
    return figure
