"""Our networks and their training follow a PyTorch reference of the published ones, in float64.

Forward passes with the published weights agree to 1e-10. From the same start and the same batches,
20 training steps agree: losses to 1e-9, running statistics to 1e-8. Biases in front of a BatchNorm
exist in the reference only; converting folds them, so they are no part of any comparison.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from epinformer_jax import torch_names, torch_zip
from epinformer_jax.data import batches, layouts, sequence
from epinformer_jax.model import functional, layers
from epinformer_jax.model.architecture import ActivityConfig, EncoderConfig, ExpressionConfig
from epinformer_jax.train import tasks

torch = pytest.importorskip("torch", reason="torch not installed; run `make parity`")

import torch_reference  # noqa: E402  (needs torch)

pytestmark = pytest.mark.parity("torch")

PREDICT = jax.jit(functional.predict, static_argnums=0)
ACTIVITY = jax.jit(functional.activity, static_argnums=0)
STEPS = 20
LEARNING_RATE, WEIGHT_DECAY = 5e-4, 1e-6
TINY_ENCODER = EncoderConfig(stem_channels=8, channels=(6, 5, 6))
TINY_ACTIVITY = ActivityConfig(encoder=TINY_ENCODER, window_bp=64, hidden=8, dropout=0.0)
TINY_EXPRESSION = ExpressionConfig(
    encoder=TINY_ENCODER,
    window_bp=128,
    slots=6,
    summary_channels=5,
    summary_dilations=(1, 1, 2),
    summary_outputs=4,
    embedding=8,
    heads=2,
    layers=2,
    hidden=8,
    link_features=3,
    gene_features=9,
)
VARIANTS = {
    "extra convolutions": dataclasses.replace(
        TINY_ACTIVITY,
        mixer_channels=(4, 4, 4, 6),
        mixer_widths=(3, 3, 3, 1),
        mixer_dilations=(1, 1, 1, 1),
    ),
    "dilated extra convolutions": dataclasses.replace(
        TINY_ACTIVITY,
        window_bp=128,
        mixer_channels=(4, 4, 5, 7),
        mixer_widths=(3, 3, 3, 1),
        mixer_dilations=(2, 4, 6, 1),
    ),
    "one linear map": dataclasses.replace(TINY_ACTIVITY, hidden=0),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def as_float64(tensors):
    return {name: np.asarray(value, np.float64) for name, value in tensors.items()}


def random_bases(rng, *shape):
    """One-hot bases, some unknown (0.25 in each channel)."""
    bases = np.eye(4)[rng.integers(4, size=shape)]
    bases[rng.random(shape) < 0.05] = 0.25
    return bases


def random_reference(module, seed):
    """Random weights and running statistics, in float64."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, value in torch_reference.state_of(module).items():
        fan_in = max(int(np.prod(value.shape[1:])), 1)
        drawn = rng.normal(size=value.shape) * (fan_in**-0.5 if value.ndim > 1 else 0.3)
        is_scale = name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight"))
        tensors[name] = np.abs(drawn) + 0.5 if is_scale else drawn
        if name.endswith("num_batches_tracked"):
            tensors[name] = value
    return torch_reference.load_state(module, tensors)


def variables_of(module, config):
    return as_jax(torch_names.variables_of(torch_reference.state_of(module), config))


def as_jax(tree):
    return jax.tree.map(jnp.asarray, tree)


def test_published_encoder_gives_the_same_activities(shared_data):
    file = torch_zip.read_torch_file(shared_data / "weights" / "encoder_K562" / "fold_10.pt")
    tensors = as_float64(file.tensors)
    config = torch_names.recognise(tensors)
    reference = torch_reference.load_state(torch_reference.Activity(config), tensors).eval()
    bases = random_bases(np.random.default_rng(0), 4, 256)
    with torch.no_grad():
        expected = reference(torch.tensor(bases)).numpy()
    variables = as_jax(torch_names.variables_of(tensors, config))
    got = ACTIVITY(config, variables, jnp.asarray(bases), jnp.ones((4, 256), bool))
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["PE_Activity_HiC_RNA/fold_11", "PE_Activity_CAGE/fold_1"])
def test_published_expression_model_gives_the_same_predictions(name, shared_data):
    file = torch_zip.read_torch_file(shared_data / "weights" / f"expression_K562_{name}.pt")
    tensors = as_float64(file.tensors)
    config = torch_names.recognise(tensors, run_name=file.run_name)
    reference = torch_reference.load_state(torch_reference.Expression(config), tensors).eval()
    rng = np.random.default_rng(1)
    bases = random_bases(rng, 1, 3, 2000)
    bases[0, 1, :700] = 0  # a short element
    bases[0, 2] = 0  # an empty slot
    mask = np.array([[True, True, False]])
    links = np.abs(rng.normal(size=(1, 3, config.link_features))) * mask[..., None]
    genes = rng.normal(size=(1, config.gene_features))
    with torch.no_grad():
        expected = reference(*map(torch.tensor, (bases, mask, links, genes)))
    variables = as_jax(torch_names.variables_of(tensors, config))
    valid = jnp.asarray(bases.any(axis=-1))
    got = PREDICT(config, variables, jnp.asarray(bases), valid, *as_jax((links, genes)))
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", VARIANTS)
def test_encoder_variants_give_the_same_activities(name):
    config = VARIANTS[name]
    reference = random_reference(torch_reference.Activity(config), seed=2)
    tensors = torch_reference.state_of(reference)
    recognised = torch_names.recognise(tensors, mixer_dilations=config.mixer_dilations or None)
    assert dataclasses.replace(recognised, dropout=0.0) == config
    check_activity_forward(reference, config, seed=3)


def test_encoder_without_batch_norm_in_its_tower_gives_the_same_activities():
    module = torch_reference.Activity(TINY_ACTIVITY, has_norm=False)
    check_activity_forward(random_reference(module, seed=4), TINY_ACTIVITY, seed=5)


@pytest.mark.parametrize(
    ("link_features", "gene_features", "has_norm"),
    [(0, 9, True), (1, 8, True), (2, 9, False), (3, 9, True)],
)
def test_expression_variants_give_the_same_predictions(link_features, gene_features, has_norm):
    config = dataclasses.replace(
        TINY_EXPRESSION,
        link_features=link_features,
        gene_features=gene_features,
        summary_batch_norm=has_norm,
    )
    reference = random_reference(torch_reference.Expression(config), seed=6).eval()
    batch = random_genes(np.random.default_rng(7), config, genes=3)
    with torch.no_grad():
        expected = reference(*map(torch.tensor, batch[:4]))
    bases, mask, links, genes = map(jnp.asarray, batch[:4])
    valid = (bases.sum(-1) > 0) & mask[..., None]
    got = PREDICT(config, variables_of(reference, config), bases, valid, links, genes)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-10)


def check_activity_forward(reference, config, seed):
    bases = random_bases(np.random.default_rng(seed), 5, config.window_bp)
    with torch.no_grad():
        expected = reference.eval()(torch.tensor(bases)).numpy()
    valid = jnp.ones(bases.shape[:2], bool)
    variables = variables_of(reference, config)
    got = ACTIVITY(config, variables, jnp.asarray(bases), valid)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)


def random_codes(rng, length):
    return sequence.encode("".join(rng.choice(list("ACGTN"), size=length, p=[0.24] * 4 + [0.04])))


def dense_bases(codes, window_bp):
    """[L, 4]: the sequence in the middle of an all-zero window."""
    bases = np.zeros((window_bp, 4))
    offset = window_bp // 2 - len(codes) // 2
    bases[offset : offset + len(codes)] = sequence.one_hot(codes)
    return bases


def random_genes(rng, config, genes):
    """Dense arrays and the sequences they were made of: short and long slots, some empty."""
    sequences, links = [], []
    for _ in range(genes):
        count = rng.integers(config.slots)
        is_short = rng.random(count) < 0.5
        long = rng.integers(100, config.window_bp, count)
        lengths = [config.window_bp, *np.where(is_short, rng.integers(9, 25, count), long)]
        sequences.append([random_codes(rng, int(length)) for length in lengths])
        features = rng.gamma(1.0, size=(len(lengths), config.link_features))
        links.append(features.astype(np.float32))
    mask = np.zeros((genes, config.slots), bool)
    bases = np.zeros((genes, config.slots, config.window_bp, 4))
    dense_links = np.zeros((genes, config.slots, config.link_features))
    for gene, codes in enumerate(sequences):
        mask[gene, : len(codes)] = True
        dense_links[gene, : len(codes)] = links[gene]
        bases[gene, : len(codes)] = [dense_bases(c, config.window_bp) for c in codes]
    features = rng.normal(size=(genes, config.gene_features)).astype(np.float32)
    return bases, mask, dense_links, features.astype(np.float64), (sequences, links)


def train_ours(objective, variables, host_batches):
    """Losses, and the variables after all steps of AdamW; the published step, in float64."""
    optimizer = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    @jax.jit
    def step(params, stats, inner, batch):
        def loss(params):
            return tasks.loss(objective, params, stats, batch, None)

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, inner = optimizer.update(gradient, inner, params)
        return optax.apply_updates(params, updates), stats, inner, value

    params, stats = as_jax(tuple(variables))
    inner, losses = optimizer.init(params), []
    for batch in host_batches:
        params, stats, inner, value = step(params, stats, inner, batch)
        losses.append(float(value))
    return losses, functional.Variables(params, stats)


def train_reference(module, loss, inputs, targets):
    """Losses of the same steps in PyTorch; the module is changed."""
    optimizer = torch.optim.AdamW(
        module.train().parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )
    losses = []
    for arrays, target in zip(inputs, targets, strict=True):
        optimizer.zero_grad()
        output = module(*map(torch.tensor, arrays))
        prediction = output[0] if isinstance(output, tuple) else output
        value = torch_reference.LOSSES[loss](prediction, torch.tensor(target))
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def check_training(objective, reference, ours, losses):
    np.testing.assert_allclose(ours[0], losses, rtol=0, atol=1e-9)
    assert len(losses) == STEPS and losses[-1] != losses[0]
    theirs = variables_of(reference, objective.model)
    for expected, got in zip(jax.tree.leaves(theirs), jax.tree.leaves(ours[1]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8)


def test_twenty_expression_steps_follow_the_reference_with_padded_statistics():
    config, size = TINY_EXPRESSION, 4
    reference = random_reference(torch_reference.Expression(config), seed=8)
    start = variables_of(reference, config)
    rng = np.random.default_rng(9)
    drawn = [random_genes(rng, config, size) for _ in range(STEPS)]
    labels = [(2 * rng.normal(size=size)).astype(np.float32) for _ in range(STEPS)]
    lengths = [np.array([len(c) for c in codes]) for genes in drawn for codes in genes[4][0]]
    plan = layouts.make_plan(
        lengths,
        geometry=layouts.Geometry(**config.geometry()),
        batch_size=size,
        slots=config.slots,
    )
    plan = dataclasses.replace(plan, layouts=plan.layouts[-1:])  # one shape, one compilation
    cropped = [plan.geometry.widths(own) < plan.geometry.blocks for own in lengths]
    assert any(own.any() for own in cropped), "no window is cropped"
    packed = [
        batches.pack_genes(
            plan,
            [batches.Sequences(codes) for codes in genes[4][0]],
            genes[4][1],
            genes[3].astype(np.float32),
            target,
        )
        for genes, target in zip(drawn, labels, strict=True)
    ]
    objective = tasks.Objective(config, "smooth_l1")
    ours = train_ours(objective, start, packed)
    inputs = [genes[:4] for genes in drawn]
    losses = train_reference(reference, "smooth_l1", inputs, [x.astype(float) for x in labels])
    check_training(objective, reference, ours, losses)


@pytest.mark.parametrize(
    ("loss", "variant"), [("mse", None), ("l1kl", None), ("mse", "extra convolutions")]
)
def test_twenty_activity_steps_follow_the_reference(loss, variant):
    config, size = VARIANTS.get(variant, TINY_ACTIVITY), 6
    reference = random_reference(torch_reference.Activity(config), seed=10)
    start = variables_of(reference, config)
    rng = np.random.default_rng(11)
    lengths = rng.integers(config.window_bp // 2, config.window_bp + 1, size=(STEPS, size))
    codes = [[random_codes(rng, int(length)) for length in row] for row in lengths]
    labels = rng.normal(size=(STEPS, size)).astype(np.float32)
    packed = [
        batches.pack_windows(row, target, window_bp=config.window_bp, batch_size=size)
        for row, target in zip(codes, labels, strict=True)
    ]
    objective = tasks.Objective(config, loss)
    ours = train_ours(objective, start, packed)
    inputs = [(np.stack([dense_bases(c, config.window_bp) for c in row]),) for row in codes]
    losses = train_reference(reference, loss, inputs, list(labels.astype(float)))
    check_training(objective, reference, ours, losses)


def test_ties_in_a_pool_send_their_gradient_to_the_first():
    rng = np.random.default_rng(12)
    x = rng.integers(0, 2, size=(3, 9, 4)).astype(float)
    cotangent = rng.normal(size=(3, 4, 4))
    theirs = torch.tensor(x, requires_grad=True)
    pooled = torch.nn.functional.max_pool1d(theirs.transpose(1, 2), 2).transpose(1, 2)
    pooled.backward(torch.tensor(cotangent))
    value, pull = jax.vjp(layers.max_pool, jnp.asarray(x))
    np.testing.assert_array_equal(value, pooled.detach().numpy())
    np.testing.assert_array_equal(pull(jnp.asarray(cotangent))[0], theirs.grad.numpy())
