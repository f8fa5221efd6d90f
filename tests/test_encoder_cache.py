"""Cached outputs of a frozen encoder: same training, same predictions, on disk while needed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_inputs
import tiny_models
import train_tiny

from epinformer_jax.data import batches, loader, sequence
from epinformer_jax.data.batches import Sequences
from epinformer_jax.model import functional, packing, tracks
from epinformer_jax.train import devices, encoder_cache, loop, tasks
from epinformer_jax.train.checkpoint import ModelInfo

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = train_tiny.MODEL
FROZEN = tasks.Objective(CONFIG, "smooth_l1", encoder="frozen")
COUNTS = [1, 3, 5, 4, 2, 1]


@dataclasses.dataclass(frozen=True)
class Examples:
    """Genes in memory, as the loop wants them."""

    genes: tiny_models.Genes
    plan: object

    @property
    def labels(self):
        return self.genes.labels

    def stream(self, indices, *, shuffle):
        def pack(chosen):
            return tiny_batch(self.genes, self.plan, chosen)

        size = self.plan.batch_size
        return loader.stream(indices, pack, batch_size=size, seed=0, shuffle=shuffle)


def tiny_batch(genes, plan, chosen):
    return batches.pack_genes(
        plan,
        [genes.sequences[i] for i in chosen],
        [genes.link_features[i] for i in chosen],
        genes.gene_features[chosen],
        genes.labels[chosen],
    )


def shared_genes(rng):
    """Genes of several window widths, of which the third repeats an element of the second; each
    element has an unknown base.
    """
    genes = tiny_models.random_genes(rng, CONFIG, COUNTS)
    for gene, count in enumerate(COUNTS):
        halves = rng.integers(2, CONFIG.window_bp // 2, count - 1)  # even lengths: see turned()
        lengths = [CONFIG.window_bp, *(2 * halves)]
        codes = [tiny_inputs.random_codes(rng, int(length)) for length in lengths]
        for element in codes[1:]:
            element[rng.integers(len(element))] = 0
        genes.sequences[gene] = Sequences(codes)
    codes = list(genes.sequences[2].codes)
    codes[1] = genes.sequences[1].codes[1]
    genes.sequences[2] = Sequences(codes)
    return genes


@pytest.fixture(scope="module")
def genes():
    return shared_genes(np.random.default_rng(3))


@pytest.fixture(scope="module")
def examples(genes):
    """In the layout that fits every batch, so that one is compiled; it has places to spare."""
    plan = tiny_models.plan_for(genes, CONFIG, batch_size=4)
    return Examples(genes, tiny_models.one_layout(plan))


def cache_of(examples, variables, folder, *, objective=FROZEN, dtype="float32"):
    return encoder_cache.EncoderCache(
        objective, variables, examples.genes.sequences, examples.plan, folder, dtype=dtype
    )


@functools.partial(jax.jit, static_argnums=0)
def gradients(objective, variables, batch, key):
    def loss(params):
        return tasks.loss(objective, params, variables.stats, batch, key)

    return jax.value_and_grad(loss, has_aux=True)(variables.params)


def predict(objective, variables, batch):
    return loop.predict_step(objective)(variables, devices.put_batch(batch))


def turned(genes, chosen, batch, key):
    """The genes with the sequences turned around that a cached step draws from `key`."""
    flip = np.asarray(tracks.drawn_strands(key, len(batch["row_weight"])))
    assert 0 < flip.sum() < len(flip)
    copies = list(genes.sequences)
    for number, gene in enumerate(chosen):
        codes = [
            sequence.reverse_complement(each) if flip[batch["row_of_slot"][number, slot]] else each
            for slot, each in enumerate(genes.sequences[gene].codes)
        ]
        copies[gene] = Sequences(codes)
    return genes._replace(sequences=copies)


@pytest.mark.parametrize(("statistics", "flip"), [("padded", True), ("real", False)])
def test_a_step_with_the_cache_equals_the_step_without(statistics, flip, examples, tmp_path):
    """Loss, gradients, running statistics; then predictions and attention; the second batch has
    fillers. Where strands are drawn, the step without has sequences that were turned beforehand.
    """
    model = dataclasses.replace(CONFIG, statistics=statistics)
    plainly = dataclasses.replace(FROZEN, model=model)
    objective = dataclasses.replace(plainly, flip=flip)
    with jax.enable_x64(True):
        variables = tiny_models.random_variables(model, seed=1, dtype=jnp.float64)
        cache = cache_of(examples, variables, tmp_path, objective=objective, dtype="float64")
        cache.open()
        key = jax.random.key(7)
        for chosen in (np.array([2, 0, 1, 3]), np.array([4, 5])):
            plain = tiny_batch(examples.genes, examples.plan, chosen)
            ready = cache.with_towers(plain, chosen)
            genes = turned(examples.genes, chosen, ready, key) if flip else examples.genes
            drawn = devices.put_batch(tiny_batch(genes, examples.plan, chosen))
            plain, ready = devices.put_batch(plain), devices.put_batch(ready)
            (value, stats), gradient = gradients(plainly, variables, drawn, key)
            (got, got_stats), got_gradient = gradients(objective, variables, ready, key)
            np.testing.assert_allclose(got, value, rtol=0, atol=1e-9)
            tiny_models.assert_trees_close(got_stats, stats, atol=1e-9)
            tiny_models.assert_trees_close(got_gradient, gradient, atol=1e-9)
            step = loop.predict_step(objective)
            expected, found = step(variables, plain), step(variables, ready)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


def test_every_place_holds_what_the_encoder_says_of_its_sequence_there(examples, tmp_path):
    """Within the window and beside it, where it is all-zero DNA's answer."""
    variables = tiny_models.random_variables(CONFIG, seed=1)
    cache = cache_of(examples, variables, tmp_path)
    cache.open()
    chosen = np.arange(4)
    ready = cache.with_towers(tiny_batch(examples.genes, examples.plan, chosen), chosen)
    codes = [own for gene in chosen for own in examples.genes.sequences[gene].codes]
    rows = batches.pack_windows(
        codes, np.zeros(len(codes)), window_bp=CONFIG.window_bp, batch_size=len(codes)
    )["rows"]
    rows = packing.PackedRows(**jax.tree.map(jnp.asarray, rows))

    @jax.jit
    def tower(rows):
        model = functional.bind(CONFIG, variables)
        return model.encoder(packing.expand(rows, unknown=0.25), None, train=False)[0].x

    expected, given = np.asarray(tower(rows)), ready["towers"]
    for row in range(len(codes)):
        here = given["row"] == row
        position = given["position"][here]
        np.testing.assert_array_equal(position, np.arange(ready["first"][row], ready["last"][row]))
        np.testing.assert_allclose(given["tower"][here], expected[row, position], rtol=0, atol=1e-6)
        outside = np.delete(expected[row], position, axis=0)
        nothing = np.delete(ready["background"], position, axis=0)
        np.testing.assert_allclose(outside, nothing, rtol=0, atol=1e-6)
    nobodys = given["row"] == len(ready["row_weight"])
    assert nobodys.any()
    middle = ready["background"][len(ready["background"]) // 2]
    np.testing.assert_array_equal(given["tower"][nobodys], middle[None].repeat(nobodys.sum(), 0))


def test_each_distinct_sequence_is_encoded_once(examples, genes):
    found = encoder_cache.distinct(genes.sequences)
    flat = [codes for gene in genes.sequences for codes in gene.codes]
    assert len(found.codes) == len(flat) - 1
    assert len(found.index) == len(flat) and found.first.tolist() == [0, *np.cumsum(COUNTS)]
    for codes, where in zip(flat, found.index, strict=True):
        np.testing.assert_array_equal(found.codes[where], codes)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("bfloat16", 2e-2)])
def test_stored_precision_bounds_the_error(dtype, error, examples, tmp_path):
    """bfloat16 keeps 8 bits: relative errors of up to 2^-9 in what enters the summary."""
    variables = tiny_models.random_variables(CONFIG, seed=1)
    cache = cache_of(examples, variables, tmp_path, dtype=dtype)
    cache.open()
    chosen = np.arange(4)
    plain = tiny_batch(examples.genes, examples.plan, chosen)
    ready = cache.with_towers(plain, chosen)
    assert ready["towers"]["tower"].dtype == jnp.dtype(dtype)
    expected = predict(FROZEN, variables, plain)[0]
    found = predict(FROZEN, variables, ready)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=error)
    files = list(tmp_path.rglob("*.bin"))
    assert sum(path.stat().st_size for path in files) == cache.size_bytes > 0


def fit_both(examples, folder, objective=FROZEN):
    """The same training without and with the cache."""
    variables = tiny_models.random_variables(CONFIG, seed=1)
    cache = cache_of(examples, variables, folder / "cache", objective=objective)
    results = []
    for name, data in (
        ("plain", examples),
        ("cached", encoder_cache.CachedExamples(examples, cache)),
    ):
        results.append(fit(data, variables, folder / name, objective))
    return results, cache


def fit(data, variables, folder, objective=FROZEN, epochs=2):
    return loop.fit(
        objective,
        loop.OptimizerSpec(learning_rate=1e-3),
        loop.FitSpec(epochs, 0),
        variables,
        data,
        np.arange(4),
        np.arange(4, 6),
        folder,
        ModelInfo(CONFIG),
        name="tiny",
        run_id="x",
    )


def test_a_fold_trains_alike_with_and_without_the_cache(examples, tmp_path):
    (plain, cached), cache = fit_both(examples, tmp_path)
    assert cache.is_open
    for a, b in zip(cached.history, plain.history, strict=True):
        for name in ("train_loss", "valid_loss", "valid_pearson"):
            assert a[name] == pytest.approx(b[name], abs=1e-6), name
    tiny_models.assert_trees_close(
        cached.variables.params["encoder"], plain.variables.params["encoder"], atol=0
    )
    cache.delete()
    assert not (tmp_path / "cache").exists() and not cache.is_open


def test_a_finished_fold_is_predicted_without_making_the_cache(examples, tmp_path):
    (_, cached), cache = fit_both(examples, tmp_path)
    cache.delete()
    variables = tiny_models.random_variables(CONFIG, seed=1)
    again = cache_of(examples, variables, tmp_path / "cache")
    data = encoder_cache.CachedExamples(examples, again)
    assert fit(data, variables, tmp_path / "cached").history == cached.history
    stream = data.stream(np.arange(4, 6), shuffle=False)
    loop.predict_all(FROZEN, cached.variables, stream, 2)
    assert not again.is_open and not (tmp_path / "cache").exists()


@pytest.fixture
def counted(monkeypatch):
    """How often towers were written."""
    calls, original = [], encoder_cache.EncoderCache._write

    def write(self, folder):
        calls.append(folder)
        original(self, folder)

    monkeypatch.setattr(encoder_cache.EncoderCache, "_write", write)
    return calls


def test_a_run_that_goes_on_uses_the_files_of_the_first_start(examples, tmp_path, counted):
    variables = tiny_models.random_variables(CONFIG, seed=1)
    cache_of(examples, variables, tmp_path).open()
    cache_of(examples, variables, tmp_path).open()
    assert len(counted) == 1


@pytest.mark.parametrize("change", ["weights", "sequences", "strands", "dtype"])
def test_files_of_something_else_are_not_used(change, examples, genes, tmp_path, counted):
    variables = tiny_models.random_variables(CONFIG, seed=1)
    cache_of(examples, variables, tmp_path).open()
    objective, dtype, data = FROZEN, "float32", examples
    if change == "weights":
        variables = tiny_models.random_variables(CONFIG, seed=2)
    elif change == "sequences":
        codes = [list(gene.codes) for gene in genes.sequences]
        codes[0][0] = tiny_inputs.random_codes(np.random.default_rng(9), CONFIG.window_bp)
        data = Examples(
            genes._replace(sequences=[Sequences(each) for each in codes]), examples.plan
        )
    elif change == "strands":
        objective = dataclasses.replace(FROZEN, flip=True)
    else:
        dtype = "bfloat16"
    cache_of(data, variables, tmp_path, objective=objective, dtype=dtype).open()
    assert len(counted) == 2
    assert len(list(tmp_path.iterdir())) == 1, "the other files were kept"


@pytest.mark.parametrize("fault", ["byte", "short", "missing"])
def test_damaged_files_are_made_again(fault, examples, tmp_path, counted, caplog):
    variables = tiny_models.random_variables(CONFIG, seed=1)
    cache_of(examples, variables, tmp_path).open()
    path = sorted(tmp_path.rglob("*.bin"))[0]
    content = bytearray(path.read_bytes())
    if fault == "missing":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if fault == "byte" else content[:-4])
    with caplog.at_level("WARNING", logger="absl"):
        cache = cache_of(examples, variables, tmp_path)
        cache.open()
    assert len(counted) == 2 and path.name in caplog.text
    expected = tiny_batch(examples.genes, examples.plan, np.arange(4))
    ready = cache.with_towers(expected, np.arange(4))
    found = predict(FROZEN, variables, ready)[0]
    np.testing.assert_allclose(found, predict(FROZEN, variables, expected)[0], atol=1e-6)


def test_a_start_that_dies_while_writing_leaves_nothing_to_use(examples, tmp_path, monkeypatch):
    variables = tiny_models.random_variables(CONFIG, seed=1)
    cache = cache_of(examples, variables, tmp_path)

    def fail(path):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(encoder_cache, "_digest_of_file", fail)
        with pytest.raises(OSError, match="disk full"):
            cache.open()
    assert not cache.is_open and not list(tmp_path.rglob("*.bin"))
    cache.open()
    assert cache.is_open


def test_what_stands_in_the_way_is_said(examples, tmp_path):
    variables = tiny_models.random_variables(CONFIG, seed=1)
    for changes, message in (
        ({"encoder": "tuned"}, "it must be frozen"),
        ({"encoder": "frozen_as_published"}, "frozen_as_published, which changes its outputs"),
        ({"shift_bp": 5}, "sequences move by up to 5 bases"),
    ):
        objective = dataclasses.replace(FROZEN, **changes)
        cache = cache_of(examples, variables, tmp_path / "c", objective=objective)
        assert message in encoder_cache.obstacle("auto", objective, cache)
        with pytest.raises(ValueError, match="encoder_cache='on', but"):
            encoder_cache.obstacle("on", objective, cache)
    assert encoder_cache.obstacle("on", FROZEN, cache_of(examples, variables, tmp_path / "c")) == ""


def test_a_full_disk_stands_in_the_way(examples, tmp_path, monkeypatch):
    usage = dataclasses.make_dataclass("Usage", ["free"])(free=10)
    monkeypatch.setattr(encoder_cache.shutil, "disk_usage", lambda path: usage)
    cache = cache_of(examples, tiny_models.random_variables(CONFIG, seed=1), tmp_path / "c")
    assert "GB left" in encoder_cache.obstacle("auto", FROZEN, cache)
    usage.free = 3 * cache.size_bytes
    assert encoder_cache.obstacle("auto", FROZEN, cache, at_once=2) == ""
    reason = encoder_cache.obstacle("auto", FROZEN, cache, at_once=3)
    assert reason.startswith("the caches of 3 folds at once need")


def test_the_towers_of_a_batch_are_dealt_over_the_devices(examples, tmp_path):
    cache = cache_of(examples, tiny_models.random_variables(CONFIG, seed=1), tmp_path)
    cache.open()
    batch = cache.with_towers(tiny_batch(examples.genes, examples.plan, np.arange(4)), np.arange(4))
    put = devices.put_batch(batch)
    np.testing.assert_array_equal(put["towers"]["tower"], batch["towers"]["tower"])
    assert put["towers"]["other_strand"] is None
