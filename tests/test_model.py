"""The definition of both networks: against a plain network, under grad, vmap and jit, and by
published sizes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import naive_network
import numpy as np
import pytest
import tiny_models
from flax import nnx

from epinformer_jax.model import architecture, functional
from epinformer_jax.model.architecture import ActivityConfig, EncoderConfig, ExpressionConfig
from epinformer_jax.model.epinformer import StarLayer

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = tiny_models.EXPRESSION
ACTIVITY = tiny_models.ACTIVITY
PREDICT = jax.jit(functional.predict, static_argnums=0)
ENCODE = jax.jit(functional.encode, static_argnums=0)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def variables():
    with jax.enable_x64(True):
        return tiny_models.random_variables(CONFIG, seed=0, dtype=jnp.float64)


@pytest.fixture(scope="module")
def activity_variables():
    with jax.enable_x64(True):
        return tiny_models.random_variables(ACTIVITY, seed=0, dtype=jnp.float64)


@pytest.fixture(scope="module")
def genes():
    drawn = tiny_models.random_genes(np.random.default_rng(0), CONFIG, (1, 3, 5))
    return tiny_models.dense(drawn, CONFIG)


def predict(config, variables, genes):
    arrays = (genes.bases, genes.valid, genes.link_features, genes.gene_features)
    return PREDICT(config, variables, *map(jnp.asarray, arrays))


def soft_bases(rng, rows, length):
    """Rows of probabilities over the four bases."""
    return jnp.asarray(rng.dirichlet(np.ones(4), size=(rows, length)))


def test_prediction_and_attention_equal_the_plain_network(variables, genes):
    prediction, attention = predict(CONFIG, variables, genes)
    expected = jax.jit(lambda v: naive_network.express(CONFIG, *v, genes, train=False))(variables)
    np.testing.assert_allclose(prediction, expected[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(attention, expected[1], rtol=0, atol=1e-12)
    assert attention.shape == (3, CONFIG.layers, CONFIG.slots)


def test_promoter_attention_sums_to_one_and_empty_slots_get_none(variables, genes):
    _, attention = predict(CONFIG, variables, genes)
    np.testing.assert_allclose(attention.sum(axis=-1), 1.0, atol=1e-12)
    empty = ~genes.valid.any(axis=2)
    assert not np.moveaxis(np.asarray(attention), 1, 2)[empty].any()


def test_what_stands_in_empty_slots_changes_no_prediction(variables, genes):
    rng = np.random.default_rng(1)
    empty = ~genes.valid.any(axis=2)
    changed = genes._replace(
        bases=np.where(genes.valid[..., None], genes.bases, rng.normal(size=genes.bases.shape)),
        link_features=np.where(
            empty[..., None], rng.normal(size=genes.link_features.shape), genes.link_features
        ),
    )
    for before, after in zip(
        predict(CONFIG, variables, genes), predict(CONFIG, variables, changed), strict=True
    ):
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-14)


def test_order_of_elements_does_not_matter(variables, genes):
    order = np.array([0, 3, 1, 4, 2])
    shuffled = genes._replace(
        bases=genes.bases[:, order],
        valid=genes.valid[:, order],
        link_features=genes.link_features[:, order],
    )
    prediction, attention = predict(CONFIG, variables, genes)
    got, got_attention = predict(CONFIG, variables, shuffled)
    np.testing.assert_allclose(got, prediction, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got_attention, attention[:, :, order], rtol=0, atol=1e-12)


def test_promoter_preset_ignores_elements(genes):
    """No link features and use_elements False: only the promoter and the gene's scalars count."""
    config = dataclasses.replace(CONFIG, use_elements=False, link_features=0)
    variables = tiny_models.random_variables(config, seed=3, dtype=jnp.float64)
    bare = genes._replace(link_features=genes.link_features[..., :0])
    alone = bare._replace(
        bases=bare.bases * (np.arange(CONFIG.slots) == 0)[None, :, None, None],
        valid=bare.valid & (np.arange(CONFIG.slots) == 0)[None, :, None],
    )
    prediction, attention = predict(config, variables, bare)
    expected, _ = predict(config, variables, alone)
    np.testing.assert_allclose(prediction, expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(attention[:, :, 0], 1.0, rtol=0, atol=1e-14)


@pytest.mark.parametrize("promoter_only", [False, True])
def test_star_attention_equals_full_attention_under_its_mask(promoter_only):
    rng = np.random.default_rng(2)
    config = dataclasses.replace(CONFIG, embedding=8, heads=2)
    graph, state = nnx.split(StarLayer(config, rngs=nnx.Rngs(0)))
    state = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), state)
    layer = nnx.merge(graph, state)
    x = rng.normal(size=(6, 5, 8))
    mask = rng.random((6, 5)) < 0.5
    mask[:, 0] = True
    mask[0] = [True, False, False, False, False]
    got, attention = layer(
        jnp.asarray(x), jnp.asarray(mask), promoter_only=promoter_only, dtype="float32"
    )
    expected, expected_attention = naive_network.attention_layer(
        jnp.asarray(x), nnx.to_pure_dict(state), mask, heads=2
    )
    if promoter_only:
        expected = expected[:, :1]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)
    np.testing.assert_allclose(attention, expected_attention, rtol=0, atol=1e-12)


def test_embedding_is_channel_major(variables):
    """With the pooling weights of position p zeroed, components c * positions + p are constant."""
    positions = CONFIG.embedding // CONFIG.summary_outputs
    pool = variables.params["summary"]["pool"]
    kernel = pool["kernel"].at[:, 1].set(0.0)
    summary = {**variables.params["summary"], "pool": {**pool, "kernel": kernel}}
    changed = variables._replace(params={**variables.params, "summary": summary})
    bases = soft_bases(np.random.default_rng(3), 4, CONFIG.window_bp)
    embedded = np.asarray(ENCODE(CONFIG, changed, bases, jnp.ones((4, CONFIG.window_bp), bool)))
    constant = naive_network.elu(pool["bias"][1])
    np.testing.assert_allclose(embedded[:, 1::positions], constant, rtol=0, atol=1e-14)
    assert np.abs(embedded[:, 0::positions] - constant).min() > 1e-6


def test_gradient_of_an_embedding_equals_its_finite_difference(variables):
    rng = np.random.default_rng(4)
    bases = soft_bases(rng, 2, CONFIG.window_bp)
    valid = jnp.asarray(np.arange(CONFIG.window_bp) < 50)[None].repeat(2, axis=0)
    direction = jnp.asarray(rng.normal(size=bases.shape))
    mix = jnp.asarray(rng.normal(size=(2, CONFIG.embedding)))

    @jax.jit
    def value(step):
        moved = bases + step * direction
        return (functional.encode(CONFIG, variables, moved, valid) * mix).sum()

    slope = jax.grad(value)(0.0)
    h = 1e-5
    np.testing.assert_allclose(slope, (value(h) - value(-h)) / (2 * h), rtol=1e-6)
    assert abs(slope) > 1e-3


def test_gradient_is_zero_where_a_base_is_not_valid(variables):
    bases = soft_bases(np.random.default_rng(5), 1, CONFIG.window_bp)
    valid = (jnp.arange(CONFIG.window_bp) < 40)[None]

    @jax.jit
    @jax.grad
    def slope(bases):
        return functional.encode(CONFIG, variables, bases, valid).sum()

    gradient = slope(bases)
    assert not np.asarray(gradient)[:, 40:].any()
    assert np.asarray(gradient)[:, :40].any()


def test_activity_maps_over_soft_sequences_and_compiles(activity_variables):
    rng = np.random.default_rng(6)
    bases, valid = soft_bases(rng, 3, 32), jnp.ones((3, 32), bool)

    def activity(bases, valid):
        return functional.activity(ACTIVITY, activity_variables, bases, valid)

    def of_one(bases, valid):
        return activity(bases[None], valid[None])[0]

    def of_all(bases):
        return activity(bases, valid).sum()

    together = activity(bases, valid)
    mapped, each = jax.jit(jax.vmap(jax.value_and_grad(of_one)))(bases, valid)
    np.testing.assert_allclose(mapped, together, rtol=0, atol=1e-12)
    at_once = jax.jit(jax.grad(of_all))(bases)
    np.testing.assert_allclose(each, at_once, rtol=0, atol=1e-12)
    assert np.abs(at_once).max() > 0


def test_activity_with_both_strands_is_the_mean_of_the_two(activity_variables):
    bases = soft_bases(np.random.default_rng(7), 3, 32)
    valid = jnp.asarray(np.arange(32) < 30)[None].repeat(3, axis=0)
    both = dataclasses.replace(ACTIVITY, strands="both")
    got = functional.activity(both, activity_variables, bases, valid)
    other = functional.activity(ACTIVITY, activity_variables, bases[:, ::-1, ::-1], valid[:, ::-1])
    forward = functional.activity(ACTIVITY, activity_variables, bases, valid)
    np.testing.assert_allclose(got, (forward + other) / 2, rtol=0, atol=1e-12)
    assert np.abs(forward - other).max() > 1e-6


def test_dropout_is_off_in_evaluation_and_on_in_training(activity_variables):
    bases, valid = soft_bases(np.random.default_rng(8), 6, 32), jnp.ones((6, 32), bool)
    quiet = dataclasses.replace(ACTIVITY, dropout=0.0)
    with_rate = functional.activity(ACTIVITY, activity_variables, bases, valid)
    without = functional.activity(quiet, activity_variables, bases, valid)
    np.testing.assert_array_equal(with_rate, without)

    strong = dataclasses.replace(ACTIVITY, dropout=0.5)
    rows = functional._rows(bases, valid)

    @jax.jit
    def trained(key):
        def call(model):
            return model(rows, train=True, key=key)

        return functional.run(strong, activity_variables, call)[0]

    first, again, other = (trained(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


def test_running_the_model_does_not_change_the_variables_it_was_given(activity_variables):
    before = jax.tree.map(np.array, activity_variables)
    bases, valid = soft_bases(np.random.default_rng(9), 2, 32), jnp.ones((2, 32), bool)
    rows = functional._rows(bases, valid)
    _, stats = functional.run(ACTIVITY, activity_variables, lambda model: model(rows, train=True))
    tiny_models.assert_trees_close(activity_variables, before, atol=0)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), stats, before.stats)
    assert min(jax.tree.leaves(moved)) > 0


def test_transplant_takes_weights_and_statistics_of_the_encoder_and_nothing_else(
    variables, activity_variables
):
    result = functional.transplant_encoder(activity_variables, variables)
    for name in ("params", "stats"):
        got, old = getattr(result, name), getattr(variables, name)
        assert got["encoder"] is getattr(activity_variables, name)["encoder"]
        assert {k: v for k, v in got.items() if k != "encoder"} == {
            k: v for k, v in old.items() if k != "encoder"
        }
    assert variables.params["encoder"] is not activity_variables.params["encoder"]


def test_an_encoder_of_another_shape_is_not_transplanted(variables):
    wide = dataclasses.replace(ACTIVITY, encoder=EncoderConfig(stem_channels=5, channels=(3, 4)))
    with pytest.raises(ValueError, match="pre-trained encoder does not fit"):
        functional.transplant_encoder(functional.init(wide, seed=0), variables)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    first, again, other = (functional.init(ACTIVITY, seed=seed) for seed in (0, 0, 1))
    tiny_models.assert_trees_close(first, again, atol=0)
    assert not np.array_equal(
        first.params["head"]["output"]["kernel"], other.params["head"]["output"]["kernel"]
    )


def numbers(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("config", "trainable", "statistics"),
    [
        # spec 1.2 and 1.4, less the biases in front of a BatchNorm: 384 in the tower, 512 in the
        # activity head, 224 in the summary. Statistics: 768 in the tower, 4 x 256 and 448 beyond.
        (ActivityConfig(), 802_305 - 384 - 512, 768 + 1024),
        (ExpressionConfig(), 447_341 - 384 - 224, 768 + 448),
        (ExpressionConfig(link_features=2), 447_277 - 384 - 224, 768 + 448),
        (ExpressionConfig(link_features=1, gene_features=8), 447_213 - 128 - 384 - 224, 768 + 448),
        (ExpressionConfig(summary_batch_norm=False), 446_893 - 384, 768),
        (ExpressionConfig(embedding=128), 925_497 - 384 - 224, 768 + 448),
    ],
)
def test_published_networks_have_the_published_number_of_parameters(config, trainable, statistics):
    shapes = functional.shapes(config)
    assert numbers(shapes.params) == trainable
    assert numbers(shapes.stats) == statistics


def test_published_lengths_follow_from_the_defaults():
    config = ExpressionConfig()
    assert (config.tower_length, config.summary_length) == (125, 101)
    assert (config.encoder.stride, config.encoder.reach_bp) == (16, 19)


def test_an_element_changes_nothing_beyond_the_encoders_reach():
    """The margin that packing keeps around an element is enough, and needed."""
    config = tiny_models.ENCODER
    wide = dataclasses.replace(ACTIVITY, window_bp=128)
    variables = tiny_models.random_variables(wide, seed=1, dtype=jnp.float64)
    bases = np.zeros((17, 128, 4))
    for row in range(16):  # one base, at every phase of the stride
        bases[row, 56 + row, row % 4] = 1.0
    rows = functional._rows(jnp.asarray(bases), jnp.ones((17, 128), bool))

    def tower(model):
        return model.encoder(rows, None, train=False)[0].x

    x = np.asarray(functional.run(wide, variables, tower)[0])
    stride, tight = config.stride, []
    for row in range(16):
        base = 56 + row
        changed = np.flatnonzero(np.abs(x[row] - x[16]).max(axis=1) > 1e-12)
        # windows begin and end at multiples of the stride
        first, last = (base - config.reach_bp) // stride, -(-(base + 1 + config.reach_bp) // stride)
        assert first <= changed[0] and changed[-1] < last
        tight.append(changed[0] == first)
    assert any(tight)


@pytest.mark.parametrize(
    "config",
    [
        ACTIVITY,
        CONFIG,
        ActivityConfig(mixer_channels=(8,), mixer_widths=(3,), mixer_dilations=(2,)),
    ],
)
def test_a_configuration_survives_its_dictionary(config):
    import json

    fields = json.loads(json.dumps(architecture.to_dict(config)))
    assert architecture.from_dict(fields) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "expresion"}, "model kind 'expresion' is not one of"),
        ({}, "model kind None is not one of"),
        ({"kind": "activity", "hiden": 3}, "ActivityConfig has no field \\['hiden'\\]"),
        ({"kind": "activity", "encoder": {"width": 3}}, "EncoderConfig has no field \\['width'\\]"),
    ],
)
def test_an_unknown_kind_or_field_of_a_model_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        architecture.from_dict(fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_bp": 2004}, "window_bp=2004 is not a multiple of the encoder's stride 16"),
        ({"window_bp": 384}, "widen the window"),
        ({"heads": 5}, "multiple of summary_outputs=32 and of heads=5"),
        ({"summary_outputs": 48}, "multiple of summary_outputs=48"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ExpressionConfig(**changes)


def test_mixer_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="one entry for each convolution"):
        ActivityConfig(mixer_channels=(8, 8), mixer_widths=(3,), mixer_dilations=(1, 1))
