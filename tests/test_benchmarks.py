"""The benchmark harness without torch: pairing, statistics, agreement, what is printed and written.

Workers are stand-ins that answer as tests/benchmarks/child.py does; nothing here is timed.
"""

import ast
import contextlib
import dataclasses
import json
import pathlib
import sys
import types

import numpy as np
import pytest

from tests.benchmarks import __main__ as bench
from tests.benchmarks import child, inputs, measure, memory, occupancy, report, rounds
from tests.benchmarks import table as lines
from tests.benchmarks.rounds import Disagreement, Times
from tests.benchmarks.setting import Prepared

ONE_LINE = lines.Line(
    "forward_4",
    "a job",
    "gene",
    (
        lines.torch("torch", "forward"),
        lines.torch(lines.BETTER_LAYOUT, "forward"),
        lines.ours("packed", "forward", least=50),
    ),
    (lines.Target("packed", 18), lines.Target("packed", 50, stretch=True)),
)
SECONDS = {"torch": 2.0, lines.BETTER_LAYOUT: 1.0, "packed": 0.05}


class StandIn:
    """A worker that takes SECONDS for a run and answers `numbers`."""

    def __init__(self, numbers):
        self.numbers = numbers
        self.asked = []

    def ask(self, do, contender, **request):
        self.asked.append((do, contender))
        if do == "prepare":
            return {"work": 1, "one_off": {"compile_s": 3.0, "table_bytes": 2e9}}
        if do == "check":
            return {"numbers": self.numbers[contender], "seconds": SECONDS[contender]}
        if do == "run":
            count = max(1, round(request["length"] / SECONDS[contender]))
            return {"seconds": [SECONDS[contender]] * count, "others": 0.3}
        return {}


def stand_ins(packed=(1.0, 2.0)):
    """Both sides in one, agreeing unless told otherwise."""
    one = StandIn({"torch": [1.0, 2.0], lines.BETTER_LAYOUT: [1.0, 2.0], "packed": list(packed)})
    return {"reference": one, "ours": one}


def measured(workers):
    return measure.line(ONE_LINE, workers, "hugetlb", seconds=0, quick=False, say=lambda _: None)


def test_ratios_are_paired_round_by_round():
    reference = Times([[4.0], [8.0], [6.0]], work=2)
    ours = Times([[1.0, 1.0], [2.0, 2.0], [1.0, 1.0]], work=1)
    ratio = rounds.ratio(reference, ours)
    assert (ratio.low, ratio.median, ratio.high) == (2.0, 2.0, 3.0)
    assert ratio.value == pytest.approx(3.0 / (8 / 6))
    assert ratio.to_fastest == pytest.approx(2.0 / (8 / 6))


def test_summary_is_of_units_of_work():
    found = rounds.summary(Times([[2.0, 4.0], [6.0, 6.0], [1.0, 1.0]], work=2))
    assert found == rounds.Summary(10 / 6, 1.5, 0.5, 3.0, runs=6, rounds=3)


def test_ratios_of_unequal_rounds_are_refused():
    with pytest.raises(ValueError, match="2 rounds against 1"):
        rounds.ratio(Times([[1.0], [1.0]], 1), Times([[1.0]], 1))


def interleaved(*, seconds, **options):
    """Who ran how often, in order, and the rounds: runs of `a` take 4 s, those of `b` 1 s."""
    ran, now = [], [0.0]

    def runner(name, cost):
        def run(length):
            count = max(1, int(-(-length // cost)))
            ran.append((name, count))
            now[0] += cost * count
            return [cost] * count

        return run

    found = rounds.interleave(
        {"a": runner("a", 4.0), "b": runner("b", 1.0)},
        seconds=seconds,
        turn_s=2.0,
        clock=lambda: now[0],
        **options,
    )
    return ran, found


def test_contenders_take_turns_of_the_same_length():
    ran, found = interleaved(seconds=0)
    assert ran == [("a", 1), ("b", 4)] * rounds.MIN_ROUNDS
    assert [len(turn) for turn in found["b"]] == [4, 4]


def test_there_are_as_many_rounds_as_time_and_least_runs_ask_for():
    assert len(interleaved(seconds=0, least_runs={"b": 10})[1]["a"]) == 3
    assert len(interleaved(seconds=32)[1]["a"]) == 4
    assert len(interleaved(seconds=1e9)[1]["a"]) == rounds.MAX_ROUNDS


def test_a_short_first_run_is_a_warm_up_and_a_long_one_counts():
    ran, found = interleaved(seconds=0, warm_up={"a": 30.0, "b": 0.5})
    assert ran[0] == ("b", 30)
    assert found["a"] == [[30.0], [4.0]] and [len(turn) for turn in found["b"]] == [30, 4]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [([1.0, 2.1], "0.05 away"), ([1.0], "1 numbers"), ([1.0, np.nan], "nan away")],
)
def test_numbers_that_differ_are_a_disagreement(numbers, message):
    with pytest.raises(Disagreement, match=message):
        rounds.check({"torch": [1.0, 2.0], "ours": numbers}, tolerance=0.01, where="line")


def test_numbers_within_the_tolerance_agree():
    away = rounds.check({"torch": [1.0, 2.0], "ours": [1.0, 2.01]}, tolerance=0.01, where="line")
    assert away == pytest.approx(0.005)


def test_a_line_is_measured_against_both_layouts_and_its_targets():
    workers = stand_ins()
    found = measured(workers)
    assert found["ratios"]["packed"]["torch"]["value"] == pytest.approx(40)
    assert found["ratios"]["packed"][lines.BETTER_LAYOUT]["value"] == pytest.approx(20)
    assert [(t["at_least"], t["passed"]) for t in found["targets"]] == [(18, True), (50, False)]
    assert found["contenders"]["packed"]["seconds_per_unit"]["runs"] == 80
    assert workers["ours"].asked[-1] == ("drop", "packed")


def test_nothing_is_timed_where_numbers_disagree():
    workers = stand_ins(packed=(1.0, 2.001))
    with pytest.raises(Disagreement, match="forward_4: packed"):
        measured(workers)
    assert not [who for do, who in workers["ours"].asked if do == "run"]
    assert ("drop", "packed") in workers["ours"].asked


@pytest.fixture
def small_bench(monkeypatch, tmp_path):
    """The command with one line, stand-ins for its processes and a few genes."""

    def run(*arguments, packed=(1.0, 2.0), memory_growth=10, measured_lines=(ONE_LINE,)):
        @contextlib.contextmanager
        def workers(sides, setting, env):
            yield stand_ins(packed)

        def once(module, *given, env):
            if module.endswith("networks"):
                return {"expression": "made up"}
            if module.endswith("memory"):
                grown = 100 if "reference" in given else memory_growth
                return {"growth": {"usual": grown, "largest": 2 * grown}}
            if module.endswith("sweep"):
                point = {"x": 1, "bases_per_gene": 2.0, "ms_per_gene": 3.0}
                line = {"ms_per_kb": 1.0, "ms_at_0": 0.0, "r_squared": 1.0}
                return {"curves": {name: [point, point] for name in report.CURVES}, "line": line}
            if module.endswith("accelerator"):
                return {"text": ["no accelerator here"]}
            return {"limits": {"loss": 1.0}, "differences": {"packed": {"loss": 0.0}}}

        genes = occupancy.k562(tmp_path / "absent").subset(np.arange(3))
        monkeypatch.setattr(bench.occupancy, "k562", lambda folder: genes)
        monkeypatch.setattr(bench.children, "workers", workers)
        monkeypatch.setattr(bench.children, "once", once)
        monkeypatch.setattr(bench, "LINES", measured_lines)
        return bench.main(["--out", str(tmp_path / "out"), "--seconds", "0", *arguments])

    return run


def test_the_command_writes_json_and_a_page_and_prints_the_table(small_bench, tmp_path, capsys):
    assert small_bench() == 0
    printed = capsys.readouterr().out
    for expected in ("18x; stretch 50x", "reached; not reached (stretch)", "40.0x", "made up"):
        assert expected in printed
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [line["allocator"] for line in found["lines"]] == ["hugetlb", "default"]
    assert {target["ours"] for target in found["disk"]["targets"]} == {"plain", "zlib"}
    assert all(one["passed"] for one in found["memory"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img") == 2 and "http://" not in page.split("<img")[0]


def test_a_missed_target_is_said(small_bench, capsys):
    assert small_bench("--only", "memory", memory_growth=30) == 0
    assert "MISSED" in capsys.readouterr().out


def test_a_disagreement_fails_and_prints_no_time(small_bench, capsys):
    assert small_bench("--only", "forward_4", packed=(1.0, 3.0)) == 1
    printed = capsys.readouterr().out
    assert "ERROR forward_4: packed" in printed and "40.0x" not in printed


def test_lines_without_a_target_are_measured_again_only_while_there_is_time(
    small_bench, monkeypatch, tmp_path, capsys
):
    plain = dataclasses.replace(ONE_LINE, name="forward_16")
    aimed = lines.Target("packed", 20, allocator="default")
    wanted = dataclasses.replace(ONE_LINE, targets=(*ONE_LINE.targets, aimed))
    took = {"forward_4": 60.0, "forward_16": 60.0}
    now = [0.0]

    class Clocked(bench.Bench):
        def line(self, line, workers, allocator, *, share):
            now[0] += took[line.name]
            super().line(line, workers, allocator, share=share)

    monkeypatch.setattr(bench, "Bench", Clocked)
    monkeypatch.setattr(bench.time, "monotonic", lambda: now[0])
    assert small_bench("--minutes", "3", measured_lines=(plain, wanted)) == 0
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    measured_lines = [(line["line"], line["allocator"]) for line in found["lines"]]
    assert measured_lines == [
        ("forward_16", "hugetlb"),
        ("forward_4", "hugetlb"),
        ("forward_4", "default"),
    ]
    assert found["left_out"] == ["forward_16, default"]
    assert "left out for want of time: forward_16, default" in capsys.readouterr().out
    again = found["lines"][2]
    assert lines.BETTER_LAYOUT not in again["contenders"]
    assert [target["at_least"] for target in again["targets"]] == [20]


def test_quick_measures_one_allocator_and_no_sweep(small_bench, tmp_path):
    assert small_bench("--quick") == 0
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [line["allocator"] for line in found["lines"]] == ["hugetlb"]
    assert "sweep" not in found


def test_every_contender_names_a_job_that_its_side_has():
    known = {side: set() for side in child.SIDES}
    for side, modules in child.SIDES.items():
        for module in modules:
            path = pathlib.Path(bench.__file__).parent / f"{module.rpartition('.')[2]}.py"
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "JOBS":
                    known[side] |= {key.value for key in node.value.keys}
    for line in lines.LINES:
        names = {contender.name for contender in line.contenders}
        assert len(names) == len(line.contenders)
        assert all(contender.job in known[contender.side] for contender in line.contenders)
        assert all({target.ours, target.against} <= names for target in line.targets)


def test_a_worker_prepares_checks_runs_and_drops(monkeypatch):
    closed = []

    def job(setting, *, factor):
        return Prepared(
            lambda index: [factor * index],
            work=2,
            one_off={"made": 1},
            close=lambda: closed.append(1),
        )

    monkeypatch.setitem(sys.modules, "pretended", types.SimpleNamespace(JOBS={"job": job}))
    monkeypatch.setitem(child.SIDES, "ours", ("pretended",))
    contenders = child.Contenders("ours", setting=None)
    ready = contenders.prepare("mine", "job", {"factor": 3})
    assert ready == {"work": 2, "one_off": {"made": 1}}
    assert contenders.check("mine")["numbers"] == [0]
    assert len(contenders.run("mine", 0)["seconds"]) == 1
    taken = contenders.run("mine", 0.001)["seconds"]
    assert len(taken) > 1 and sum(taken) - taken[-1] < 0.001
    assert contenders.next_run["mine"] == 2 + len(taken)
    assert contenders.drop("mine") == {} and closed == [1]


def test_each_line_has_processes_of_its_own(small_bench, monkeypatch):
    other = dataclasses.replace(ONE_LINE, name="forward_16")
    started = []

    class Counted(bench.Bench):
        def line(self, line, workers, allocator, *, share):
            started.append(id(workers["ours"]))
            self.kept = [*getattr(self, "kept", []), workers]  # so that no address is used again
            super().line(line, workers, allocator, share=share)

    monkeypatch.setattr(bench, "Bench", Counted)
    assert small_bench("--allocator", "hugetlb", measured_lines=(ONE_LINE, other)) == 0
    assert len(set(started)) == 2


def test_a_gene_with_an_element_that_fills_the_window_is_found(tmp_path):
    genes = occupancy.k562(tmp_path / "absent")
    setting = types.SimpleNamespace(genes=genes)
    gene, slot = inputs.gene_with_long_element(setting, 15)
    assert genes.counts[gene] == 15
    assert genes.length[genes.element[genes.first[gene] + slot - 1]] == 2000
    with pytest.raises(ValueError, match="no gene with 70 elements"):
        inputs.gene_with_long_element(setting, 70)


def test_made_up_genes_keep_the_published_rule(tmp_path):
    genes = occupancy.k562(tmp_path / "absent")
    distance = np.abs(genes.distance_bp)
    assert distance.min() > 1000 and distance.max() <= 100_000 and genes.counts.max() <= 60
    ends = np.cumsum(genes.counts)
    for gene in np.flatnonzero(genes.counts)[:50]:
        assert (np.diff(distance[ends[gene] - genes.counts[gene] : ends[gene]]) >= 0).all()
    assert 10 < genes.counts.mean() < 25 and genes.length.max() <= 2000
    genes.save(tmp_path / "genes.npz")
    assert occupancy.Genes.load(tmp_path / "genes.npz").describe() == genes.describe()


def test_an_element_has_the_same_bases_in_every_gene_and_subset(tmp_path):
    genes = occupancy.k562(tmp_path / "absent")
    some = genes.subset(np.array([5, 6, 5]))
    data = occupancy.gene_set(some)
    for first, again in zip(data.sequences[0].codes, data.sequences[2].codes, strict=True):
        np.testing.assert_array_equal(first, again)
    elements, _ = occupancy.codes_of(genes)
    own = genes.element[genes.first[5]]
    np.testing.assert_array_equal(data.sequences[0].codes[1], elements[own])
    assert set(np.unique(elements[own])) <= {1, 2, 4, 8}


def test_mutants_are_all_substitutions_in_order():
    codes = np.array([2, 8], np.uint8)
    expected = [[1, 8], [4, 8], [8, 8], [2, 1], [2, 2], [2, 4]]
    np.testing.assert_array_equal(inputs.mutants(codes), expected)


@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_that_was_used_and_freed_shows_in_the_peak():
    with memory.Peak() as peak:
        np.ones(60_000_000, np.uint8)
    assert 55_000_000 < peak.growth < 200_000_000
