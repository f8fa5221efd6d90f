"""Checkpoints: what comes back is what was saved, or an error that names what differs."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import tiny_models

from epinformer_jax.data import features
from epinformer_jax.model import functional
from epinformer_jax.train import checkpoint
from epinformer_jax.train.checkpoint import Checkpoints, DamagedCheckpoint, ModelInfo

MODEL = tiny_models.ACTIVITY
INFO = ModelInfo(
    model=tiny_models.EXPRESSION,
    schema=json.loads(json.dumps(features.schema("published", "PE-Activity").to_dict())),
    label="rna",
    label_transform={"name": "z_log10", "offset": 0.1, "mean": 0.24, "sd": 1.06},
    unknown_base=0.25,
    element_rule={"max_elements": 60},
    chromosomes={"train": ["chr1"], "valid": ["chr2"], "test": ["chr3"]},
    fold="fold_1",
    genome="hg38",
    feature_quantiles={"activity": [0.0, 0.1, 0.2, 0.3, 0.4]},
    data_fingerprint="abc",
    source="a test",
)


def tree_of(seed=0):
    """Nested dictionaries of arrays of several types and ranks, a scalar among them."""
    rng = np.random.default_rng(seed)
    return {
        "params": {
            "encoder": {"kernel": rng.normal(size=(3, 4, 5)).astype(np.float32)},
            "head": {"bias": rng.normal(size=7).astype(np.float32)},
        },
        "stats": {"norm": {"mean": np.array([np.nan, np.inf, -0.0], np.float32)}},
        "optimizer": {"0000": np.int32(seed), "0001": rng.normal(size=700).astype(np.float32)},
    }


def save_steps(folder, scores, info=INFO):
    """Saves one step for each score: 10, 20, ..."""
    checkpoints = Checkpoints(folder)
    for number, score in enumerate(scores, start=1):
        step = 10 * number
        progress = {"run_id": "r", "epoch": number}
        checkpoints.save(step, tree_of(step), info=info, progress=progress, score=score)
    checkpoints.wait()
    return checkpoints


@pytest.fixture
def opened():
    """Closes what a test opens."""
    managers = []

    def register(checkpoints):
        managers.append(checkpoints)
        return checkpoints

    yield register
    for manager in managers:
        manager.close()


def test_what_was_saved_comes_back_bit_for_bit_with_its_record(tmp_path, opened):
    checkpoints = opened(save_steps(tmp_path, [0.5]))
    restored = checkpoints.restore(10)
    assert restored.step == 10 and restored.progress == {"run_id": "r", "epoch": 1}
    assert restored.info == INFO
    flat, expected = checkpoint.flatten(restored.tree), checkpoint.flatten(tree_of(10))
    assert (
        set(flat)
        == set(expected)
        == {
            "params/encoder/kernel",
            "params/head/bias",
            "stats/norm/mean",
            "optimizer/0000",
            "optimizer/0001",
        }
    )
    for path, leaf in expected.items():
        assert flat[path].dtype == np.asarray(leaf).dtype
        assert flat[path].tobytes() == np.asarray(leaf).tobytes(), path


def test_the_best_and_the_last_two_steps_are_kept(tmp_path, opened):
    checkpoints = opened(save_steps(tmp_path, [0.1, 0.9, 0.3, 0.2, 0.5]))
    assert checkpoints.steps() == [20, 40, 50]
    assert checkpoints.best_step() == 20
    assert checkpoints.restore_latest().step == 50


def test_of_equal_scores_the_later_step_is_the_best(tmp_path, opened):
    checkpoints = opened(save_steps(tmp_path, [0.7, 0.7, 0.7, 0.1, 0.2]))
    assert checkpoints.best_step() == 30
    checkpoints.close()
    assert opened(Checkpoints(tmp_path)).best_step() == 30, "other after opening again"


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_the_worst(tmp_path, score, opened):
    checkpoints = opened(save_steps(tmp_path, [-0.9, score, score]))
    assert checkpoints.best_step() == 10


def test_a_directory_without_steps_has_none(tmp_path, opened):
    checkpoints = opened(Checkpoints(tmp_path))
    assert checkpoints.steps() == []
    assert checkpoints.best_step() is None and checkpoints.restore_latest() is None


def test_a_step_is_not_saved_twice(tmp_path, opened):
    checkpoints = opened(save_steps(tmp_path, [0.5, 0.6]))
    with pytest.raises(ValueError, match="step 10 was not saved; steps .* are there already"):
        checkpoints.save(10, tree_of(), info=INFO, progress={}, score=1.0)


def test_later_steps_can_be_removed(tmp_path, opened):
    checkpoints = opened(save_steps(tmp_path, [0.5, 0.6, 0.4]))
    checkpoints.delete_after(20)
    assert checkpoints.steps() == [20]


def test_arrays_changed_after_saving_do_not_change_what_is_saved(tmp_path, opened):
    checkpoints = opened(Checkpoints(tmp_path))
    tree = tree_of()
    checkpoints.save(1, tree, info=INFO, progress={}, score=0.0)
    tree["params"]["head"]["bias"][:] = 99.0
    checkpoints.wait()
    expected = tree_of()["params"]["head"]["bias"]
    np.testing.assert_array_equal(checkpoints.restore(1).tree["params"]["head"]["bias"], expected)


def stored_files(folder):
    """All files below, largest first."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    return sorted(files, key=lambda p: (-p.stat().st_size, p))


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path):
    """A flip is either an error that names step or leaf, or leaves all arrays as they were."""
    save_steps(tmp_path / "whole", [0.5]).close()
    original = checkpoint.flatten(tree_of(10))
    rng = np.random.default_rng(0)
    arrays = tmp_path / "whole" / "checkpoints" / "10" / "state" / "d"  # what a restore reads
    (largest,) = stored_files(arrays)[:1]
    noticed = 0
    for position in rng.integers(largest.stat().st_size, size=6):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "copy")
        path = tmp_path / "copy" / largest.relative_to(tmp_path / "whole")
        content = bytearray(path.read_bytes())
        content[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        folder = tmp_path / "copy" / "checkpoints" / "10"
        try:
            restored = checkpoint.read_step(folder, 10)
        except DamagedCheckpoint as error:
            noticed += 1
            assert str(folder) in str(error) and "\n" not in str(error)
        else:
            for leaf, value in checkpoint.flatten(restored.tree).items():
                assert value.tobytes() == np.asarray(original[leaf]).tobytes(), leaf
    assert noticed >= 3


def test_a_changed_record_is_noticed(tmp_path):
    """Where training stood, or the model's description, with one digit changed."""
    save_steps(tmp_path / "whole", [0.5]).close()
    record = tmp_path / "whole" / "checkpoints" / "10" / "record"
    (path,) = (p for p in record.iterdir() if b"progress" in p.read_bytes())
    text = path.read_text()
    for old, new in (('"epoch": 1', '"epoch": 2'), ('"hg38"', '"hg19"'), ("1.06", "1.07")):
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(DamagedCheckpoint, match="checkpoints/10: its record differs"):
            checkpoint.read_step(record.parent, 10)
    path.write_text(text)
    checkpoint.read_step(record.parent, 10)


def test_an_unreadable_checkpoint_leaves_nothing_else_on_stderr(tmp_path, run_python, model):
    """orbax gives up its other reads, which would complain one by one."""
    shutil.copytree(model[0], tmp_path / "m")
    for path in (tmp_path / "m" / "checkpoints" / "0" / "state" / "d").iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    script = f"""
from epinformer_jax.train import checkpoint
for _ in range(3):
    try:
        checkpoint.load_model({str(tmp_path / "m")!r})
    except checkpoint.DamagedCheckpoint as error:
        print(error)
"""
    done = run_python("-c", script)
    assert done.stderr == "" and done.returncode == 0
    assert done.stdout.count("checkpoints/0: the checkpoint cannot be read") == 3


def test_a_leaf_that_differs_from_its_digest_is_named(tmp_path):
    """The record of one step with the arrays of another: everything readable, and wrong."""
    save_steps(tmp_path, [0.5, 0.6]).close()
    steps = tmp_path / "checkpoints"
    shutil.rmtree(steps / "20" / "state")
    shutil.copytree(steps / "10" / "state", steps / "20" / "state")
    with pytest.raises(DamagedCheckpoint, match="/20: leaf optimizer/0000 differs from what was"):
        checkpoint.read_step(steps / "20", 20)


def test_a_damaged_step_is_reported_and_the_one_before_is_taken(tmp_path, opened, caplog):
    save_steps(tmp_path, [0.5, 0.6, 0.7]).close()
    for path in stored_files(tmp_path / "checkpoints" / "30" / "state"):
        path.write_bytes(b"")
    checkpoints = opened(Checkpoints(tmp_path))
    with caplog.at_level("WARNING", logger="absl"):
        restored = checkpoints.restore_latest()
    assert restored.step == 20 and checkpoints.steps() == [20]
    np.testing.assert_array_equal(restored.tree["optimizer"]["0000"], 20)
    (message,) = [r.message for r in caplog.records if "falling back" in r.message]
    assert "checkpoints/30: the checkpoint cannot be read" in message
    checkpoints.save(30, tree_of(31), info=INFO, progress={}, score=0.1)  # written anew
    checkpoints.wait()
    np.testing.assert_array_equal(checkpoints.restore(30).tree["optimizer"]["0000"], 31)


@pytest.mark.parametrize("content", ["", '{"sco', "{}", '{"score": NaN}', "\udcff"])
def test_a_score_that_cannot_be_read_is_named_and_training_goes_on_without_it(
    tmp_path, opened, caplog, content
):
    """orbax reads all scores before any step, and fails without saying whose it was."""
    save_steps(tmp_path, [0.5, 0.6, 0.7]).close()
    damaged = tmp_path / "checkpoints" / "30" / "metrics" / "metrics"
    damaged.write_text(content, errors="surrogateescape")
    with pytest.raises(DamagedCheckpoint, match=r"checkpoints/30/metrics/metrics: the score"):
        Checkpoints(tmp_path)
    assert damaged.exists()
    with caplog.at_level("WARNING", logger="absl"):
        checkpoints = opened(Checkpoints(tmp_path, repair=True))
    assert checkpoints.restore_latest().step == checkpoints.best_step() == 20
    (message,) = [r.message for r in caplog.records if "score" in r.message]
    assert str(damaged) in message and "removed" in message


def test_a_missing_record_is_damage(tmp_path):
    save_steps(tmp_path, [0.5]).close()
    shutil.rmtree(tmp_path / "checkpoints" / "10" / "record")
    with pytest.raises(DamagedCheckpoint, match="checkpoints/10: the checkpoint cannot be read"):
        checkpoint.read_step(tmp_path / "checkpoints" / "10", 10)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A finished activity model: its directory and its variables."""
    folder = tmp_path_factory.mktemp("model") / "activity"
    variables = tiny_models.random_variables(MODEL, seed=0)
    assert (
        checkpoint.save_model(folder, variables, dataclasses.replace(INFO, model=MODEL)) == folder
    )
    return folder, variables


def test_a_saved_model_is_loaded_with_its_description(model):
    folder, variables = model
    for which in ("best", "latest"):
        loaded, info = checkpoint.load_model(folder, which=which)
        tiny_models.assert_trees_close(loaded, jax.tree.map(np.asarray, variables), atol=0)
        assert info == dataclasses.replace(INFO, model=MODEL)
    assert json.loads((folder / "model.json").read_text())["label"] == "rna"
    assert not list(folder.parent.glob(".*writing"))


def test_best_and_latest_weights_of_a_run_can_be_loaded(tmp_path):
    info = dataclasses.replace(INFO, model=MODEL)
    checkpoints = Checkpoints(tmp_path)
    trees = [functional.init(MODEL, seed=seed)._asdict() for seed in range(3)]
    for step, (tree, score) in enumerate(zip(trees, (0.1, 0.9, 0.5), strict=True)):
        checkpoints.save(step, tree, info=info, progress={}, score=score)
    checkpoints.close()
    for which, expected in (("best", trees[1]), ("latest", trees[2])):
        loaded, _ = checkpoint.load_model(tmp_path, which=which)
        tiny_models.assert_trees_close(loaded._asdict(), jax.tree.map(np.asarray, expected), atol=0)


def test_a_model_is_never_written_over_another(model):
    folder, variables = model
    with pytest.raises(ValueError, match="exists already; choose another --out"):
        checkpoint.save_model(folder, variables, INFO)


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no model: there is no folder checkpoints/ in it"):
        checkpoint.load_model(tmp_path)
    Checkpoints(tmp_path).close()
    with pytest.raises(ValueError, match="holds no finished checkpoint"):
        checkpoint.load_model(tmp_path)
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ValueError, match="holds no model"):
        checkpoint.load_model(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_weights_that_do_not_fit_the_described_model_are_refused(tmp_path):
    wide = dataclasses.replace(MODEL, hidden=MODEL.hidden + 1)
    info = dataclasses.replace(INFO, model=wide)
    checkpoint.save_model(tmp_path / "m", functional.init(MODEL, seed=0), info)
    with pytest.raises(ValueError, match="weights do not fit the model they describe.*params/head"):
        checkpoint.load_model(tmp_path / "m")


def test_a_model_can_be_read_from_a_folder_that_cannot_be_written(model, tmp_path):
    shutil.copytree(model[0], tmp_path / "m")
    folders = [tmp_path / "m", *(p for p in (tmp_path / "m").rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        loaded, _ = checkpoint.load_model(tmp_path / "m")
    finally:
        for folder in folders:
            folder.chmod(0o755)
    tiny_models.assert_trees_close(loaded, jax.tree.map(np.asarray, model[1]), atol=0)


def test_a_relative_directory_works(model, monkeypatch):
    monkeypatch.chdir(model[0].parent)
    loaded, _ = checkpoint.load_model("activity")
    tiny_models.assert_trees_close(loaded, jax.tree.map(np.asarray, model[1]), atol=0)


def test_the_description_survives_json():
    assert ModelInfo.from_dict(json.loads(json.dumps(INFO.to_dict()))) == INFO
