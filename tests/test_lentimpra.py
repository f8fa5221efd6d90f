"""The activity model on small libraries: twins, positions, strands, shifts, labels, encoders."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from data_prep import __main__ as data_prep
from epinformer_jax import config as config_lib
from epinformer_jax.data import sequence
from epinformer_jax.data.batches import pack_windows
from epinformer_jax.data.folds import Fold
from epinformer_jax.model import functional, packing
from epinformer_jax.model.architecture import ActivityConfig, EncoderConfig
from epinformer_jax.train import crossval, loop, tasks
from epinformer_jax.train.checkpoint import ModelInfo

TINY = {"encoder": EncoderConfig(6, 8, (5, 4)), "window_bp": 32, "hidden": 8}


def _codes(count: int, length: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return list(rng.choice(np.array([1, 2, 4, 8], np.uint8), size=(count, length)))


def _batch(codes, window_bp: int = 32):
    """One batch on the device, labels 0, 1, 2, ..."""
    labels = np.arange(len(codes), dtype=np.float32)
    batch = pack_windows(codes, labels, window_bp=window_bp, batch_size=len(codes))
    return jax.tree.map(jnp.asarray, batch)


def _rows(codes, window_bp: int = 32):
    return packing.expand(tasks.packed_batch(_batch(codes, window_bp)).rows, unknown=0.25)


def _predict(model: ActivityConfig, variables, codes) -> np.ndarray:
    objective = tasks.Objective(model, "mse")
    return np.asarray(loop.predict_step(objective)(variables, _batch(codes, model.window_bp))[0])


@functools.cache
def _tiny_variables():
    return functional.init(ActivityConfig(**TINY), seed=0)


@functools.cache
def _loss_step(objective: tasks.Objective):
    return jax.jit(functools.partial(tasks.loss, objective))


def _loss(model: ActivityConfig, variables, codes, *, seed: int, shift_bp: int = 0) -> float:
    objective = tasks.Objective(model, "mse", shift_bp=shift_bp)
    key = jax.random.key(seed)
    step = _loss_step(objective)
    return float(step(variables.params, variables.stats, _batch(codes), key)[0])


def test_no_sequence_or_twin_of_the_hepg2_library_stands_in_two_parts(shared_data, tmp_path):
    table = shared_data / "lentimpra" / "val_HepG2.tsv.gz"
    assert data_prep.main(["mpra", "--table", str(table), "--out", str(tmp_path)]) == 0
    windows = pd.read_csv(tmp_path / "windows.tsv", sep="\t")
    turned = windows["sequence"].str[::-1].str.translate(str.maketrans("ACGT", "TGCA"))
    smaller = windows["sequence"].where(windows["sequence"] < turned, turned)
    assert len(windows) == 12_292
    assert smaller.nunique() == 6_146
    assert windows["sequence"].str.len().eq(200).all()
    assert windows.groupby(smaller)["split"].nunique().eq(1).all()
    assert windows["split"].nunique() == 10


def test_both_strands_give_a_sequence_and_its_reverse_complement_the_same_activity():
    codes = _codes(4, 24)
    turned = [sequence.reverse_complement(row) for row in codes]
    one, two = (ActivityConfig(**TINY, strands=strands) for strands in ("forward", "both"))
    variables = _tiny_variables()
    forward, backward = _predict(one, variables, codes), _predict(one, variables, turned)
    assert np.abs(forward - backward).max() > 1e-4
    np.testing.assert_allclose(
        _predict(two, variables, codes), (forward + backward) / 2, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        _predict(two, variables, turned), (forward + backward) / 2, rtol=1e-5, atol=1e-6
    )


def test_mean_pool_needs_no_weights_for_positions_and_ignores_their_order():
    """Far from both ends a shift by the stride moves positions and changes nothing else."""
    rows = _rows(_codes(3, 24), 64)
    moved = packing.shifted(rows, jnp.full(3, 4))
    inputs = {}
    for pool, same in (("mean", True), ("flatten", False)):
        model = ActivityConfig(EncoderConfig(6, 8, (5,)), window_bp=64, hidden=0, pool=pool)
        variables = functional.init(model, seed=0)
        inputs[pool] = variables.params["head"]["output"]["kernel"].shape[0]
        activity = jax.jit(functools.partial(functional.activity, model))
        values = [activity(variables, x, jnp.ones((3, 64), bool)) for x in (rows.x, moved.x)]
        assert np.allclose(*values, rtol=1e-5, atol=1e-5) is same
    assert inputs == {"mean": 5, "flatten": 5 * 32}


@pytest.mark.parametrize("by", [-12, -4, 0, 3, 20])
def test_a_shift_moves_bases_and_element_and_loses_what_leaves_the_window(by):
    rows = _rows(_codes(1, 24))
    moved = packing.shifted(rows, jnp.array([by]))
    expected = np.zeros((32, 4), np.float32)
    for position in range(32):
        if 0 <= position - by < 32:
            expected[position] = rows.x[0, position - by]
    np.testing.assert_array_equal(moved.x[0], expected)
    np.testing.assert_array_equal(moved.held[0], expected.sum(axis=1) > 0)


def test_shifts_are_drawn_in_training_only_and_from_the_key():
    codes = _codes(6, 20)
    model = ActivityConfig(**{**TINY, "dropout": 0.0})
    variables = _tiny_variables()
    assert _loss(model, variables, codes, seed=0) == _loss(model, variables, codes, seed=1)
    moved = [_loss(model, variables, codes, seed=seed, shift_bp=6) for seed in (0, 0, 1)]
    assert moved[0] == moved[1]
    assert moved[0] != moved[2]


def test_encoder_dropout_acts_in_training_only():
    codes = _codes(6, 32)
    settings = {**TINY, "dropout": 0.0}
    plain, dropped = ActivityConfig(**settings), ActivityConfig(**settings, encoder_dropout=0.5)
    variables = _tiny_variables()
    np.testing.assert_array_equal(
        _predict(plain, variables, codes), _predict(dropped, variables, codes)
    )
    assert _loss(plain, variables, codes, seed=0) != _loss(dropped, variables, codes, seed=0)


def test_sequences_become_windows_by_chromosome_with_labels_on_a_log_scale(tmp_path):
    table = tmp_path / "in.tsv"
    table.write_text("chrom\tsplit\tseq\tDNASE\nchr1\ttrain\tacgt\t0\nchr2\ttest\tGGCC\t3.9\n")
    out = tmp_path / "windows.tsv"
    options = ["sequences", "--table", str(table), "--sequence-column", "seq", "--out", str(out)]
    assert data_prep.main([*options, "--value-columns", "DNASE", "--log2-offset", "0.1"]) == 0
    windows = pd.read_csv(out, sep="\t")
    assert windows["sequence"].tolist() == ["ACGT", "GGCC"]
    assert windows["split"].tolist() == ["chr1", "chr2"]
    np.testing.assert_allclose(windows["DNASE"], np.log2([0.1, 4.0]), rtol=1e-6)


def test_a_value_without_logarithm_is_refused_with_its_line(tmp_path, capsys):
    table = tmp_path / "in.tsv"
    table.write_text("chrom\tsequence\tDNASE\nchr1\tACGT\t1\nchr2\tACGT\t-0.5\n")
    options = ["sequences", "--table", str(table), "--out", str(tmp_path / "windows.tsv")]
    assert data_prep.main([*options, "--value-columns", "DNASE", "--log2-offset", "0.1"]) == 2
    assert "in.tsv:3: DNASE=-0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.source": "pretrain"}, "is for the expression model"),
        ({"encoder.source": "directory"}, "config.encoder.directory is empty"),
        (
            {"encoder.source": "directory", "encoder.directory": "x", "encoder.mode": "frozen"},
            "always trains its encoder",
        ),
        ({"model.activity_pool": "max"}, "one of flatten, mean"),
        ({"data.shift_bp": -1}, "at least 0"),
    ],
)
def test_an_activity_configuration_that_cannot_work_is_refused(change, message):
    config = config_lib.default()
    config.task, config.data.windows = "activity", "records/windows"
    config_lib.check(config)
    config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        config_lib.check(config)


def test_an_encoder_of_another_data_set_is_taken_and_said_to_be_unchecked(caplog):
    fold = Fold("fold_1", train=("part_3",), valid=("part_2",), test=("part_1",))
    info = ModelInfo(model=ActivityConfig(**TINY), label="DNASE", chromosomes={"train": ["chr1"]})
    with caplog.at_level("WARNING"):
        crossval.check_leakage(info, fold, "dnase")
    assert "no name in common" in caplog.text
    leaking = ModelInfo(model=info.model, label="a", chromosomes={"train": ["part_1"]})
    with pytest.raises(ValueError, match="which fold_1 tests"):
        crossval.check_leakage(leaking, fold, "mpra")
