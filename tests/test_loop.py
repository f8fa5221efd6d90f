"""The training loop: resume without a trace, stop where it should, keep its best epoch."""

import dataclasses
import json
import math
import random
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_datasets
import tiny_models
import train_tiny

from epinformer_jax.data import loader
from epinformer_jax.model import functional
from epinformer_jax.train import distributed, loop, metrics, tasks
from epinformer_jax.train.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("quick_compilation")

SCRIPT = "tests/train_tiny.py"
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
EPOCHS = 4


@pytest.fixture(scope="module")
def data():
    return train_tiny.one_layout(train_tiny.examples())


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    """A finished training, and the folder with its checkpoints."""
    folder = tmp_path_factory.mktemp("unbroken")
    return train_tiny.fit(data, folder, epochs=EPOCHS), folder


class Stopped(Exception):
    """What a test raises in the middle of a training."""


def with_pack(data, change):
    """The same examples; batches of training go through change(pack, indices)."""

    class Changed(type(data)):
        def stream(self, indices, *, shuffle):
            stream = super().stream(indices, shuffle=shuffle)
            if not shuffle:
                return stream
            return dataclasses.replace(stream, pack=lambda chosen: change(stream.pack, chosen))

    return Changed(**{f.name: getattr(data, f.name) for f in dataclasses.fields(data)})


def stopping_at(data, number):
    """Raises when batch `number` (counted from the start of this process) is packed."""
    packed = iter(range(10**9))

    def change(pack, chosen):
        if next(packed) == number:
            raise Stopped
        return pack(chosen)

    return with_pack(data, change)


def without_times(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def assert_same_fit(got, expected):
    """Weights and history bit for bit; only the time taken may differ."""
    tiny_models.assert_trees_close(got.variables, expected.variables, atol=0)
    assert without_times(got.history) == without_times(expected.history)
    assert got.best_epoch == expected.best_epoch


def last_step(folder):
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore(checkpoints.steps()[-1])
    finally:
        checkpoints.close()


def test_history_has_a_row_an_epoch_and_training_lowers_the_loss(unbroken, data):
    result, folder = unbroken
    steps = data.stream(data.data.where(tiny_datasets.SPLITS[:2]), shuffle=True).steps_per_epoch
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4]
    assert [row["step"] for row in result.history] == [steps * n for n in (1, 2, 3, 4)]
    assert set(result.history[0]) == {
        "epoch",
        "step",
        "train_loss",
        "valid_loss",
        "valid_pearson",
        "valid_spearman",
        "learning_rate",
        "seconds",
    }
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert [row["learning_rate"] for row in result.history] == pytest.approx([3e-3] * EPOCHS)
    assert list((folder / "tensorboard").iterdir())


def test_the_fit_returns_the_weights_of_its_best_epoch(unbroken, data):
    result, _ = unbroken
    scores = [row["valid_pearson"] for row in result.history]
    assert result.best_epoch == 1 + max(range(EPOCHS), key=lambda i: (scores[i], i))
    valid = data.data.where(tiny_datasets.SPLITS[2:3])
    stream = data.stream(valid, shuffle=False)
    prediction, _ = loop.predict_all(train_tiny.OBJECTIVE, result.variables, stream, len(valid))
    r = metrics.pearson(data.labels[valid].astype(float), prediction)
    assert r == pytest.approx(scores[result.best_epoch - 1], abs=1e-12)


@pytest.mark.parametrize("batch", [0, 11, 17, 31])
def test_a_run_that_was_stopped_and_resumed_equals_the_unbroken_one(
    batch, unbroken, data, tmp_path
):
    """Stopped before the first checkpoint, within an epoch, and at the start of one (4 steps)."""
    with pytest.raises(Stopped):
        train_tiny.fit(stopping_at(data, batch), tmp_path, epochs=EPOCHS)
    assert_same_fit(train_tiny.fit(data, tmp_path, epochs=EPOCHS), unbroken[0])
    whole, resumed = last_step(unbroken[1]), last_step(tmp_path)
    tiny_models.assert_trees_close(resumed.tree, whole.tree, atol=0)  # the optimiser's state too


@pytest.mark.parametrize("step", [11, 16])
def test_a_run_asked_to_end_saves_within_its_epoch_and_goes_on(
    step, unbroken, data, tmp_path, monkeypatch
):
    """In the middle of the second epoch and between two: the same weights, losses and best epoch;
    what is saved within an epoch is never the best.
    """
    asked = iter(range(10**9))
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "must_stop", lambda: next(asked) == step)
        with pytest.raises(distributed.Preempted, match=f"at step {step}; the same command"):
            train_tiny.fit(data, tmp_path, epochs=EPOCHS)
    stopped = last_step(tmp_path)
    assert stopped.step == step and len(stopped.progress["losses"]) == step % 8
    checkpoints = Checkpoints(tmp_path)
    best = checkpoints.best_step()
    checkpoints.close()
    assert best % 8 == 0
    assert_same_fit(train_tiny.fit(data, tmp_path, epochs=EPOCHS), unbroken[0])


def test_a_run_asked_to_end_before_its_first_step_leaves_nothing_to_mend(
    unbroken, data, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "must_stop", lambda: True)
        with pytest.raises(distributed.Preempted, match="at step 0"):
            train_tiny.fit(data, tmp_path, epochs=EPOCHS)
    assert_same_fit(train_tiny.fit(data, tmp_path, epochs=EPOCHS), unbroken[0])


def test_a_finished_run_is_not_trained_again(unbroken, data, tmp_path):
    shutil.copytree(unbroken[1], tmp_path / "copy")
    refuses = stopping_at(data, 0)
    assert_same_fit(train_tiny.fit(refuses, tmp_path / "copy", epochs=EPOCHS), unbroken[0])


def test_no_key_of_dropout_is_used_twice(data, tmp_path, monkeypatch):
    """Every step of every epoch draws from its own key, which follows from the seed."""
    original, used = loop.train_step, []

    def recording(*arguments):
        step = original(*arguments)

        def recorded(state, batch, key):
            used.append(np.asarray(jax.random.key_data(key)).tobytes())
            return step(state, batch, key)

        return recorded

    monkeypatch.setattr(loop, "train_step", recording)
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_tiny.fit(data, tmp_path / folder, epochs=2, seed=seed)
    first, again, other = (used[16 * n : 16 * (n + 1)] for n in range(3))
    assert len(set(first)) == 16 and first == again and not set(first) & set(other)


def damage(folder):
    """Changes one byte in the middle of the largest file below."""
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0x10
    largest.write_bytes(content)


def test_after_a_damaged_checkpoint_the_run_still_ends_as_the_unbroken_one(
    unbroken, data, tmp_path, caplog
):
    with pytest.raises(Stopped):
        train_tiny.fit(stopping_at(data, 28), tmp_path, epochs=EPOCHS)
    steps = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert len(steps) >= 2, "there is no earlier step to fall back to"
    damage(tmp_path / "checkpoints" / str(steps[-1]) / "state")
    with caplog.at_level("WARNING", logger="absl"):
        resumed = train_tiny.fit(data, tmp_path, epochs=EPOCHS)
    assert_same_fit(resumed, unbroken[0])
    warnings = [r.message for r in caplog.records if "falling back" in r.message]
    assert len(warnings) == 1 and f"checkpoints/{steps[-1]}" in warnings[0]


def test_a_directory_of_another_run_is_refused(unbroken, data, tmp_path):
    shutil.copytree(unbroken[1], tmp_path / "copy")
    with pytest.raises(ValueError, match="another configuration or other data"):
        train_tiny.fit(data, tmp_path / "copy", epochs=EPOCHS, run_id="other")


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(data, tmp_path):
    """The labels of one step of the second epoch become NaN; the first epoch's checkpoint stays."""
    packed = iter(range(10**9))

    def change(pack, chosen):
        batch = pack(chosen)
        return {**batch, "labels": batch["labels"] * np.nan} if next(packed) == 12 else batch

    with pytest.raises(ValueError, match="the loss at step 12 is nan.*lower the learning rate"):
        train_tiny.fit(with_pack(data, change), tmp_path, epochs=EPOCHS)
    assert last_step(tmp_path).progress["epoch"] == 1


def advance(scores, **spec):
    """(finished, waited, best epoch) after each epoch of these validation correlations."""
    progress = {"history": [], "best_score": -1e30, "best_epoch": 0, "waited": 0}
    seen = []
    for epoch, score in enumerate(scores, start=1):
        row = {"epoch": epoch, "step": epoch, "valid_pearson": score, "valid_loss": -score}
        loop._advance(progress, row, loop.FitSpec(epochs=99, **spec))
        seen.append((progress["finished"], progress["waited"], progress["best_epoch"]))
    return seen


def test_a_tie_counts_as_an_improvement():
    assert advance([0.5, 0.5, 0.4, 0.5], patience_epochs=2) == [
        (False, 0, 1),
        (False, 0, 2),
        (False, 1, 2),
        (False, 0, 4),
    ]


def test_training_stops_when_patience_is_used_up():
    assert advance([0.5, 0.4, 0.45, 0.49], patience_epochs=3)[-1] == (True, 3, 1)
    assert not advance([0.5] + [0.4] * 50, patience_epochs=0)[-1][0]


def test_an_epoch_without_a_score_is_no_improvement():
    assert advance([math.nan, 0.1, math.nan], patience_epochs=9) == [
        (False, 1, 0),
        (False, 0, 2),
        (False, 1, 2),
    ]


def test_scores_follow_the_published_and_the_plain_reading():
    assert advance([-0.9, 0.5], patience_epochs=0, score="pearson_squared")[-1][2] == 1
    assert advance([-0.9, 0.5], patience_epochs=0, score="pearson")[-1][2] == 2
    assert advance([-0.9, 0.5], patience_epochs=0, score="loss")[-1][2] == 2


def test_the_last_of_all_epochs_finishes_the_run():
    progress = {"history": [], "best_score": -1e30, "best_epoch": 0, "waited": 0}
    row = {"epoch": 3, "step": 9, "valid_pearson": 0.1, "valid_loss": 0.0}
    loop._advance(progress, row, loop.FitSpec(epochs=3, patience_epochs=0))
    assert progress["finished"]


def test_predictions_are_one_for_each_example_in_order(unbroken, data):
    variables = unbroken[0].variables
    chosen = data.data.where(["chr4"])[:6:-1]
    assert len(chosen) % data.layout.batch_size, "no short batch"
    stream = data.stream(chosen, shuffle=False)
    values, attention = loop.predict_all(train_tiny.OBJECTIVE, variables, stream, len(chosen))
    assert values.dtype == np.float64 and attention.shape == (len(chosen), 5)
    np.testing.assert_allclose(attention.sum(axis=1), 1, atol=1e-5)
    for number, gene in enumerate(chosen):
        alone = data.stream(np.array([gene]), shuffle=False)
        one, _ = loop.predict_all(train_tiny.OBJECTIVE, variables, alone, 1)
        assert one[0] == pytest.approx(values[number], abs=1e-6)
    with pytest.raises(ValueError, match=f"predicted {len(chosen)} of 99 examples"):
        loop.predict_all(train_tiny.OBJECTIVE, variables, stream, 99)


def test_the_loop_takes_windows_with_dropout_and_resumes_them_alike(tmp_path):
    """Dropout and shifts are drawn from (seed, step), so they too survive a stop."""
    from epinformer_jax.train.checkpoint import ModelInfo
    from epinformer_jax.train.crossval import Windows

    tiny_datasets.write_windows(tmp_path / "windows", per_split=6)
    manifest, data = loader.load_windows(
        tmp_path / "windows", label="log2_activity", window_bp=tiny_datasets.ACTIVITY_BP
    )
    examples = Windows(manifest, data, 8, "both", seed=0)
    model = dataclasses.replace(
        tiny_models.ACTIVITY, encoder=train_tiny.MODEL.encoder, hidden=4, dropout=0.5
    )
    objective = tasks.Objective(model, "mse", shift_bp=3)
    train, valid = data.where(["chr1", "chr2"]), data.where(["chr3"])

    def fit(examples, directory, epochs=3):
        return loop.fit(
            objective,
            loop.OptimizerSpec(1e-3, schedule="cosine", total_steps=9),
            loop.FitSpec(epochs, 0, "loss", seed=5),
            functional.init(model, seed=0),
            examples,
            train,
            valid,
            tmp_path / directory,
            ModelInfo(model),
            name="windows",
            run_id="w",
        )

    whole = fit(examples, "whole")
    with pytest.raises(Stopped):
        fit(stopping_at(examples, 4), "parts")
    assert_same_fit(fit(examples, "parts"), whole)
    assert len({row["learning_rate"] for row in whole.history}) == 3


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="compares CPU with CPU")
def test_one_device_and_eight_give_the_same_losses(run_python, data, tmp_path):
    """56 steps and 7 validations; sums over devices are added in another order, hence 1e-5."""
    assert jax.device_count() == 1
    one = train_tiny.trained(data, tmp_path / "one", epochs=7)
    done = run_python(SCRIPT, tmp_path / "eight", "7", devices=8, env=QUICK)
    assert done.returncode == 0, done.stderr
    eight = json.loads(done.stdout)
    assert eight["devices"] == 8
    for name, (rows, *each) in eight["shares"].items():
        expected = rows // 8 if name.startswith("tracks/") else rows
        assert each == [expected] * 8, f"{name} is not dealt evenly"
    assert len(one["losses"]) == len(eight["losses"]) >= 50
    np.testing.assert_allclose(eight["losses"], one["losses"], rtol=0, atol=1e-5)
    for a, b in zip(one["history"], eight["history"], strict=True):
        assert a["step"] == b["step"]
        for name in ("train_loss", "valid_loss", "valid_pearson"):
            assert a[name] == pytest.approx(b[name], abs=1e-5), name


@pytest.mark.soak
def test_a_run_killed_again_and_again_equals_the_unbroken_one(run_python, tmp_path, repository):
    """kill -9 at random moments, from outside, while batches are packed and checkpoints written."""
    whole = run_python(SCRIPT, tmp_path / "whole", "12", env=QUICK)
    assert whole.returncode == 0, whole.stderr
    rng = random.Random(0)
    kills = 0
    for attempt in range(40):
        arguments = [str(tmp_path / "parts"), "12"]
        if attempt < 6:  # at a batch; later at a moment
            arguments.append(str(rng.randrange(3, 30)))
        done = run_python(SCRIPT, *arguments, env=QUICK) if attempt < 6 else None
        if done is None:
            command = [sys.executable, SCRIPT, *arguments]
            process = subprocess.Popen(
                command,
                cwd=repository,
                env=environment(repository),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            try:
                out, err = process.communicate(timeout=rng.uniform(4, 16))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                kills += 1
                continue
            assert process.returncode == 0, err
            break
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        kills += done.returncode != 0
        out = done.stdout
        if done.returncode == 0:
            break
    else:
        pytest.fail("the run never came to its end")
    assert kills >= 3
    assert json.loads(out) == json.loads(whole.stdout) | {
        "losses": json.loads(out)["losses"]  # of the steps since the last start
    }


def environment(repository):
    import os

    paths = f"{repository}{os.pathsep}{repository / 'tests'}"
    return {**os.environ, **QUICK, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}


@pytest.mark.soak
def test_a_process_killed_at_a_batch_resumes_to_the_same_weights(run_python, tmp_path):
    killed = run_python(SCRIPT, tmp_path / "parts", "3", "13", env=QUICK)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "parts" / "checkpoints").is_dir()
    resumed = run_python(SCRIPT, tmp_path / "parts", "3", env=QUICK)
    assert resumed.returncode == 0, resumed.stderr
    whole = run_python(SCRIPT, tmp_path / "whole", "3", env=QUICK)
    assert json.loads(resumed.stdout)["weights"] == json.loads(whole.stdout)["weights"]
