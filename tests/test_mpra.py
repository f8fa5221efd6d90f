"""Reporter libraries: adapters are cut, and no sequence or twin of it stands in two parts."""

import re

import numpy as np
import pandas as pd
import pytest
import tiny_inputs
from hypothesis import given
from hypothesis import strategies as st

from data_prep import __main__ as data_prep
from data_prep import mpra
from epinformer_jax.data import folds, tables

ADAPTERS = "AGGACCGGATCAACT", "CATTGCGTGAACCGA"
HEADER = ["seq_id", "seq", "mean_value"]
COMPLEMENT = str.maketrans("ACGTRYN", "TGCAYRN")


def twin(text):
    return text.translate(COMPLEMENT)[::-1]


def table_of(sequences):
    return pd.DataFrame(
        {
            "seq_id": [f"s{n}" for n in range(len(sequences))],
            "seq": sequences,
            "mean_value": np.arange(len(sequences), dtype=float),
        }
    )


def split(sequences, *, adapter_bp=0, parts=4):
    return mpra.split_twins(
        table_of(sequences),
        adapter_bp=adapter_bp,
        parts=parts,
        sequence_column="seq",
        value_column="mean_value",
        name_column="seq_id",
    )


def run(tmp_path, *options):
    return data_prep.main(
        ["mpra", "--table", str(tmp_path / "in.tsv"), "--out", str(tmp_path / "out"), *options]
    )


@given(st.lists(st.text("ACGTNRY", min_size=1, max_size=12), min_size=1, max_size=12))
def test_a_sequence_its_twin_and_its_copies_get_the_same_part(sequences):
    everything = [*sequences, *map(twin, sequences), *(s.lower() for s in sequences)]
    parts = split(everything)["split"].to_numpy().reshape(3, -1)
    assert (parts == parts[0]).all()


def test_parts_are_about_equal_and_do_not_depend_on_the_rest_of_the_table():
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACGT"), 30)) for _ in range(1000)]
    parts = split(sequences, parts=5)["split"]
    # 200 a part expected, standard deviation 12.6
    assert sorted(parts.unique()) == [f"part_{k}" for k in range(1, 6)]
    assert parts.value_counts().between(140, 260).all()
    some = split(sequences[300:310][::-1], parts=5)["split"]
    assert some.tolist() == parts[300:310][::-1].tolist()


def test_adapters_are_cut_before_twins_are_compared():
    """Adapters read the same way round both orientations, so whole texts are no twins of each
    other.
    """
    core = "ACGTTTGCA" * 3
    left, right = ADAPTERS
    both = [left + core + right, left + twin(core) + right]
    made = split(both, adapter_bp=15)
    assert made["sequence"].tolist() == [core, twin(core)]
    assert made["split"].nunique() == 1
    assert made["activity"].tolist() == [0.0, 1.0] and made["name"].tolist() == ["s0", "s1"]


def test_every_part_is_tested_once_validated_once_and_else_trained_on():
    table = mpra.folds_of(5)
    for fold, rows in table.groupby("fold"):
        assert sorted(rows["split"]) == [f"part_{k}" for k in range(1, 6)]
        assert rows["role"].value_counts().to_dict() == {"train": 3, "test": 1, "valid": 1}
        (tested,) = rows.loc[rows["role"] == "test", "split"]
        assert tested == f"part_{fold.removeprefix('fold_')}"
    assert sorted(table.loc[table["role"] == "valid", "split"]) == [
        f"part_{k}" for k in range(1, 6)
    ]


def test_the_command_writes_tables_that_the_product_reads(tmp_path, capsys):
    rng = np.random.default_rng(1)
    cores = ["".join(rng.choice(list("ACGT"), 20)) for _ in range(30)]
    rows = [
        [f"{n}_{way}", ADAPTERS[0] + text + ADAPTERS[1], n + 0.5]
        for n, core in enumerate(cores)
        for way, text in (("f", core), ("r", twin(core)))
    ]
    tiny_inputs.write_tsv(tmp_path / "in.tsv", HEADER, rows)
    assert run(tmp_path, "--parts", "3") == 0
    assert "60 rows, 30 distinct sequences" in capsys.readouterr().out
    windows = tables.read_windows(tmp_path / "out" / "windows.tsv")
    assert len(windows) == 60 and windows.attrs["labels"] == ("activity",)
    part_of = dict(zip(windows["sequence"], windows["split"], strict=True))
    assert all(part_of[core] == part_of[twin(core)] for core in cores)
    found = folds.read_folds(tmp_path / "out" / "folds.tsv")
    assert list(found) == ["fold_1", "fold_2", "fold_3"]
    for fold in found.values():
        fold.restrict(windows["split"])


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (
            ["b", "ACGT" * 7, 1.0],
            (),
            r"in.tsv:3: sequence b has 28 bases, no more than two adapters",
        ),
        (["b", "A" * 20 + "-" + "A" * 20, 1.0], (), "in.tsv:3: sequence b, .*'-'"),
        (["b", "A" * 40, "high"], (), "in.tsv:3: .*'high' is not a number"),
        (["b", "A" * 40, "NaN"], (), "in.tsv:3: .*mean_value.*is missing"),
        (["b", "A" * 40, 1.0], ("--value-column", "act"), "in.tsv: column 'act' is missing"),
        (["b", "A" * 40, 1.0], ("--parts", "2"), "--parts 2: at least 3 are needed"),
        (["b", "A" * 40, 1.0], ("--adapter-bp", "-1"), "--adapter-bp -1: expected 0 or more"),
    ],
)
def test_a_wrong_table_or_option_is_one_line_with_its_place(
    tmp_path, capsys, row, options, message
):
    tiny_inputs.write_tsv(tmp_path / "in.tsv", HEADER, [["a", "C" * 40, 0.5], row])
    assert run(tmp_path, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error), error
    assert not (tmp_path / "out" / "windows.tsv").exists()
