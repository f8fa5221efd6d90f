"""Published recipes: the configurations, the two stages of expression training, random strands."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import tiny_datasets
import tiny_inputs
import tiny_models

from epinformer_jax import config as config_lib
from epinformer_jax.data import features, loader
from epinformer_jax.data.batches import pack_windows
from epinformer_jax.data.features import SCHEMAS
from epinformer_jax.data.folds import Fold
from epinformer_jax.model import functional, packing
from epinformer_jax.train import checkpoint, crossval, tasks

ACTIVITY = dataclasses.replace(tiny_models.ACTIVITY, dropout=0.0)


def recipe(name):
    return importlib.import_module(f"configs.{name}").get_config()


def tiny(folder, **train):
    """A configuration of the two stages on a tiny data set; the second one learns nothing."""
    config = recipe("published")
    with config.unlocked():
        config.data.genes = str(folder / "genes")
        config.data.folds = str(folder / "folds.tsv")
        config.data.fold_names = ("fold_1",)
        config.encoder.source = "none"
        config.model.update(
            stem_channels=4,
            channels=(4,),
            window_bp=tiny_datasets.WINDOW_BP,
            max_elements=tiny_datasets.MAX_ELEMENTS,
            summary_channels=3,
            summary_dilations=(2,),
            summary_outputs=2,
            embedding=4,
            heads=2,
            layers=1,
            hidden=8,
        )
        config.train.update({"batch_size": 8, "epochs": 2, "layouts": 1} | train)
        config.second_stage.update(epochs=1, learning_rate=0.0)
    config_lib.check(config)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    tiny_datasets.write_genes(folder / "genes")
    (folder / "folds.tsv").write_text(tiny_datasets.FOLDS)
    return folder


@pytest.fixture(scope="module")
def finished(folder):
    """A run of both stages."""
    with tiny_models.quick_compilation():
        return crossval.run(tiny(folder), folder / "run")


def test_recipes_have_the_published_numbers():
    """Spec 4.1, 4.3, 3.2 and 3.3."""
    published, newer = recipe("published"), recipe("pipeline2026")
    assert (published.train.learning_rate, published.second_stage.learning_rate) == (5e-4, 5e-5)
    assert (published.train.epochs, published.second_stage.epochs) == (100, 20)
    assert (published.train.patience_epochs, published.train.batch_size) == (3, 16)
    assert (published.encoder.mode, published.pretrain.batch_size) == ("tuned", 64)
    assert (newer.train.learning_rate, newer.train.batch_size, newer.train.epochs) == (1e-4, 50, 50)
    assert (newer.train.patience_epochs, newer.seed, newer.second_stage.epochs) == (8, 66, 0)
    assert (newer.encoder.mode, newer.features.schema) == ("frozen_as_published", "pipeline2026")
    assert not newer.model.summary_batch_norm
    old, new = recipe("pretrain_published"), recipe("pretrain_2026")
    for config, strands, loss, batch in ((old, "both", "mse", 64), (new, "random", "l1kl", 256)):
        assert (config.task, config.data.strands) == ("activity", strands)
        assert (config.pretrain.loss, config.pretrain.batch_size) == (loss, batch)
        assert (config.pretrain.learning_rate, config.pretrain.weight_decay) == (5e-4, 1e-6)
        assert (config.pretrain.score, config.pretrain.patience_epochs) == ("pearson_squared", 5)
    assert dict(newer.pretrain) == dict(new.pretrain) and newer.data.strands == new.data.strands
    assert dict(published.pretrain) == dict(old.pretrain)


@pytest.mark.parametrize(
    "changes", [{"features.preset": "PE"}, {"task": "activity", "encoder.source": "none"}]
)
def test_a_second_stage_without_promoter_signals_is_refused(changes):
    config = recipe("published")
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=r"config\.second_stage\.epochs=20.*set it to 0"):
        config_lib.check(config)


@pytest.mark.parametrize("name", SCHEMAS)
def test_silent_schema_differs_in_promoter_signals_alone(name):
    rng = np.random.default_rng(0)
    links, genes = ("activity", "contact", "dnase", "h3k27ac"), tiny_datasets.GENE_SIGNALS
    genes = (*genes, "promoter_dnase", "promoter_h3k27ac")
    example = dataclasses.replace(
        tiny_inputs.gene_example(rng, "g", "chr1", [5, 9]),
        link_signals=rng.gamma(1.0, size=(2, 4)).astype(np.float32),
        gene_signals=rng.gamma(1.0, size=len(genes)).astype(np.float32),
    )
    full = features.schema(name, "PE-Activity-HiC")
    silent = features.without_promoter_signals(full)
    assert features.without_promoter_signals(silent) == silent
    assert features.from_dict(silent.to_dict()) == silent

    def arrays(schema, example):
        return (
            features.link_array(schema, example, links, genes),
            features.gene_array(schema, example, genes),
        )

    link, gene = arrays(full, example)
    quiet_link, quiet_gene = arrays(silent, example)
    assert quiet_link.shape == link.shape and quiet_gene.shape == gene.shape
    np.testing.assert_array_equal(quiet_link[1:], link[1:])
    np.testing.assert_array_equal(quiet_gene[:8], gene[:8])
    assert not quiet_gene[8:].any() and gene[8:].all()
    signals = example.gene_signals.copy()
    signals[8:] *= 7
    louder = arrays(silent, dataclasses.replace(example, gene_signals=signals))
    np.testing.assert_array_equal(louder[0], quiet_link)
    np.testing.assert_array_equal(louder[1], quiet_gene)


def test_second_stage_starts_from_the_best_weights_of_the_first(finished):
    """Its learning rate is 0 here, so it must end where it started."""
    first, first_info = checkpoint.load_model(finished / "fold_1" / "stage_1")
    second, second_info = checkpoint.load_model(finished / "fold_1")
    for path, leaf in checkpoint.flatten(first.params).items():
        np.testing.assert_array_equal(checkpoint.flatten(second.params)[path], leaf, err_msg=path)
    fresh = functional.init(first_info.model, seed=66)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first.params, fresh.params)
    assert max(jax.tree.leaves(moved)) > 1e-4
    silent, full = (features.from_dict(info.schema) for info in (first_info, second_info))
    assert full == features.schema("published", "PE-Activity-HiC")
    assert silent == features.without_promoter_signals(full) != full
    assert first_info.chromosomes == second_info.chromosomes


def test_each_stage_leaves_its_own_history_and_predictions(finished):
    first, last = (
        pd.read_csv(finished / "fold_1" / part / "history.tsv", sep="\t")
        for part in ("stage_1", ".")
    )
    assert list(first["epoch"]) == [1, 2] and list(last["epoch"]) == [1]
    assert set(first["learning_rate"]) == {5e-4} and set(last["learning_rate"]) == {0.0}
    before, after = (
        pd.read_csv(finished / "fold_1" / part / "predictions.tsv", sep="\t")
        for part in ("stage_1", ".")
    )
    assert list(before["gene_id"]) == list(after["gene_id"])
    assert (before["prediction"] != after["prediction"]).any()
    pooled = pd.read_csv(finished / "predictions.tsv", sep="\t")
    np.testing.assert_array_equal(pooled["prediction"], after["prediction"])


def test_a_finished_run_of_two_stages_is_left_as_it_is(finished, folder):
    files = [p for p in sorted(finished.rglob("*.tsv")) if p.name != "metrics.json"]
    before = {path: path.read_bytes() for path in files}
    crossval.run(tiny(folder), finished)
    assert {path: path.read_bytes() for path in files} == before
    other = tiny(folder)
    other.second_stage.epochs = 2
    with pytest.raises(ValueError, match="second_stage.epochs"):
        crossval.run(other, finished)


def test_first_stage_keeps_sequences_labels_and_elements(folder):
    config = tiny(folder)
    genes = crossval.read_genes(config)
    place = crossval.Place(folder, "run")
    first, second = crossval._stages(config, genes, place)
    assert second.genes is genes and second.place == place
    assert first.place.directory == folder / crossval.FIRST_STAGE
    assert first.genes.data.sequences is genes.data.sequences
    np.testing.assert_array_equal(first.genes.labels, genes.labels)
    assert not first.genes.data.gene_features[:, 8].any()
    np.testing.assert_array_equal(
        first.genes.data.gene_features[:, :8], genes.data.gene_features[:, :8]
    )
    assert dict(second.settings) == {**config.train, "epochs": 1, "learning_rate": 0.0}
    same = loader.with_schema(genes.data, genes.manifest, genes.schema)
    for one, two in zip(same.link_features, genes.data.link_features, strict=True):
        np.testing.assert_array_equal(one, two)


# --- random strands


def windows(count, seed=0):
    rng = np.random.default_rng(seed)
    codes = [tiny_inputs.random_codes(rng, int(n)) for n in rng.integers(20, 33, count)]
    labels = np.zeros(count, np.float32)
    batch = pack_windows(codes, labels, window_bp=ACTIVITY.window_bp, batch_size=count)
    return jax.tree.map(jnp.asarray, batch)


def test_random_strands_are_one_of_both_drawn_for_each_window_from_the_key():
    variables = tiny_models.random_variables(ACTIVITY, seed=0)
    packed = tasks.packed_batch(windows(64))

    @jax.jit
    def predict(key, turned):
        model = functional.bind(ACTIVITY, variables)
        rows = packing.expand(packed.rows, unknown=0.25)
        given = packing.flipped(rows, jnp.full(64, True))
        both = jnp.where(turned, given.x, rows.x)
        drawn = packing.activate(model, packed, train=False, key=key, unknown=0.25, flip=True)
        return drawn, model(rows._replace(x=both), train=False)

    drawn, forward = predict(jax.random.key(1), False)
    again, reverse = predict(jax.random.key(1), True)
    other, _ = predict(jax.random.key(2), True)
    np.testing.assert_array_equal(drawn, again)
    is_forward = np.isclose(drawn, forward, rtol=0, atol=1e-5)
    is_reverse = np.isclose(drawn, reverse, rtol=0, atol=1e-5)
    assert (is_forward | is_reverse).all()
    assert 16 < is_forward.sum() < 48 and 16 < is_reverse.sum() < 48
    assert (np.abs(drawn - other) > 1e-5).any()


def test_random_strands_act_in_training_alone():
    variables = tiny_models.random_variables(ACTIVITY, seed=0)
    batch = windows(8)
    random = tasks.Objective(ACTIVITY, "mse", flip=True)
    plain = dataclasses.replace(random, flip=False)

    def loss(objective, seed):
        step = jax.jit(lambda key: tasks.loss(objective, *variables, batch, key)[0])
        return float(step(jax.random.key(seed)))

    assert loss(random, 1) != loss(random, 2) and loss(plain, 1) == loss(plain, 2)
    predicted = [
        jax.jit(lambda own=own: tasks.predict(own, variables, batch)[0])()
        for own in (random, plain)
    ]
    np.testing.assert_array_equal(*predicted)


def test_random_strands_do_not_double_an_epoch(tmp_path):
    tiny_datasets.write_windows(tmp_path / "windows")
    manifest, data = loader.load_windows(
        tmp_path / "windows", label="log2_activity", window_bp=tiny_datasets.ACTIVITY_BP
    )
    fold = Fold("fold", ("chr1",), ("chr2",), ("chr3",))
    steps = {
        strands: crossval.Windows(manifest, data, 4, strands, 0)
        .stream(data.where(fold.train), shuffle=True)
        .steps_per_epoch
        for strands in ("forward", "both", "random")
    }
    assert steps == {"forward": 4, "both": 8, "random": 4}
