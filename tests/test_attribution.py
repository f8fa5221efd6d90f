"""Attributions: each method against its definition, completeness, N and padding; tiny models."""

import collections
import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_inputs
import tiny_models
from test_predict import ACTIVITY, EXPRESSION, RULE, info_of

import epinformer_jax
from epinformer_jax import cli
from epinformer_jax.analysis import (
    attribution,
    attribution_file,
    ensembles,
    inputs,
    predict,
    shuffle,
)
from epinformer_jax.analysis.attribution import Region
from epinformer_jax.data import sequence
from epinformer_jax.data.genome import Genome
from epinformer_jax.model import functional, layers, rescale
from epinformer_jax.model.architecture import ActivityConfig, EncoderConfig
from epinformer_jax.train import checkpoint

pytestmark = pytest.mark.usefixtures("quick_compilation")

WINDOW = ACTIVITY.window_bp
ACTIVITY_OF = jax.jit(functional.activity, static_argnums=0)
RESCALE = jax.jit(rescale.rescale, static_argnums=0)


def model_of(config, *, seed=1, fold="fold_1", **fields):
    variables = jax.device_get(tiny_models.random_variables(config, seed=seed))
    return ensembles.Model(fold, variables, info_of(config, fold, **fields))


def regions_of(*lengths, seed=0, unknown_share=0.05):
    rng = np.random.default_rng(seed)
    return [
        Region(f"s{i}", tiny_inputs.random_codes(rng, length, unknown_share))
        for i, length in enumerate(lengths)
    ]


@pytest.fixture(scope="module")
def genes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attribution")
    paths = tiny_inputs.write_tables(folder)
    with Genome(paths["fasta"], folder / "cache") as genome:
        return inputs.from_tables(
            paths["genes"], paths["links"], genome, rule=RULE, promoter_bp=400
        )


def activity_of(model, codes):
    """log2 activity of sequences centred in the window, by the plain function."""
    config = model.info.model
    bases = np.zeros((len(codes), config.window_bp, 4), np.float32)
    for row, own in enumerate(codes):
        first = config.window_bp // 2 - len(own) // 2
        bases[row, first : first + len(own)] = sequence.one_hot(own)
    return np.asarray(ACTIVITY_OF(config, model.variables, bases, np.ones(bases.shape[:2], bool)))


# --- shuffled references


@hypothesis.given(st.text("ACGTN", min_size=1, max_size=80), st.integers(0, 5))
def test_shuffles_keep_dinucleotides_ends_and_unknown_bases(text, seed):
    codes = sequence.encode(text)
    for own in shuffle.dinucleotide_shuffles(codes, 3, np.random.default_rng(seed)):
        shuffled = sequence.decode(own)
        assert [i for i, c in enumerate(shuffled) if c == "N"] == [
            i for i, c in enumerate(text) if c == "N"
        ]
        pairs = [collections.Counter(zip(t, t[1:], strict=False)) for t in (text, shuffled)]
        assert pairs[0] == pairs[1]


def test_every_euler_path_is_equally_likely():
    codes = sequence.encode("ACAGATAA")
    rng = np.random.default_rng(0)
    drawn = shuffle.dinucleotide_shuffles(codes, 6000, rng)
    counts = collections.Counter(map(sequence.decode, drawn))
    # A>C, A>G, A>T and A>A in any order: 4! paths, each once
    assert len(counts) == 24
    assert min(counts.values()) > 180 and max(counts.values()) < 325


def test_a_rare_way_out_is_found():
    codes = sequence.encode("AC" * 400 + "GT")
    own = shuffle.dinucleotide_shuffles(codes, 2, np.random.default_rng(0))
    np.testing.assert_array_equal(own[0], codes)  # there is no other order


# --- gradient and integrated gradients


def test_gradient_is_the_central_difference_of_the_model():
    model = model_of(ACTIVITY)
    (region,) = regions_of(WINDOW, unknown_share=0.1)
    found = attribution.attribute([model], [region], method="gradient")
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), model.variables)
    bases = jnp.asarray(sequence.one_hot(region.codes)[None])
    valid = jnp.ones(bases.shape[:2], bool)
    for position in (0, 7, 31, 32, WINDOW - 1):
        slope = []
        for base in range(4):
            step = np.zeros(bases.shape, np.float32)
            step[0, position, base] = 2e-3
            ends = [ACTIVITY_OF(ACTIVITY, variables, bases + s, valid) for s in (step, -step)]
            slope.append(float(ends[0][0] - ends[1][0]) / 4e-3)
        expected = np.array(slope) - np.mean(slope)
        if region.codes[position] == sequence.UNKNOWN:
            expected[:] = 0
        np.testing.assert_allclose(found.hypothetical[0, :, position], expected, atol=2e-3)


@pytest.mark.parametrize("reference", ["shuffled", "uniform", "zeros"])
def test_integrated_gradients_of_an_activity_model_are_complete(reference):
    model = model_of(ACTIVITY)
    regions = regions_of(WINDOW, 41, WINDOW - 1, 12)
    found = attribution.attribute(
        [model], regions, method="integrated", reference=reference, shuffles=3, steps=256
    )
    np.testing.assert_allclose(
        found.prediction, activity_of(model, [r.codes for r in regions]), rtol=1e-5
    )
    assert (found.completeness_error < 1e-2).all(), found.completeness_error
    total = found.contributions.sum(axis=(1, 2))
    change = found.prediction - found.reference_prediction
    assert (np.abs(total - change) <= 1.01e-2 * np.abs(change)).all()


def test_integrated_gradients_of_genes_are_complete_and_local(genes):
    model = model_of(EXPRESSION)
    regions = attribution.gene_regions(genes, model)
    assert {r.role for r in regions} == {"promoter", "element"}
    found = attribution.attribute(
        [model], regions, genes=genes, reference="uniform", steps=128, force=True
    )
    table = predict.predict_expression([model], genes, force=True).predictions
    predicted = dict(zip(table["gene_id"], table["prediction"], strict=True))
    np.testing.assert_allclose(
        found.prediction, [predicted[g] for g in found.gene_id], rtol=1e-4, atol=1e-5
    )
    change = np.abs(found.prediction - found.reference_prediction)
    told = change > 1e-3  # below, float32 round-off is of the size of the change
    assert told.sum() > 5 and (found.completeness_error[told] < 1e-2).all()
    # the reference prediction is that of the gene with the sequence at its reference
    examples = list(genes.examples)
    unknown = dataclasses.replace(examples[0], promoter=np.zeros_like(examples[0].promoter))
    blank = dataclasses.replace(genes, examples=[unknown, *examples[1:]])
    expected = predict.predict_expression([model], blank, force=True).predictions["prediction"][0]
    row = list(found.name).index(f"{examples[0].gene_id} promoter")
    is_known = examples[0].promoter != sequence.UNKNOWN
    assert is_known.any()
    np.testing.assert_allclose(found.reference_prediction[row], expected, rtol=1e-4, atol=1e-5)


def test_other_bases_and_padding_contribute_nothing():
    model = model_of(ACTIVITY)
    regions = regions_of(WINDOW, 20, unknown_share=0.3)
    for method in attribution.METHODS:
        found = attribution.attribute([model], regions, method=method, shuffles=2, steps=8)
        for row, region in enumerate(regions):
            is_unknown = np.ones(WINDOW, bool)
            is_unknown[: len(region.codes)] = region.codes == sequence.UNKNOWN
            assert not found.hypothetical[row][:, is_unknown].any()
            assert not found.one_hot[row][:, is_unknown].any()
            assert found.hypothetical[row][:, ~is_unknown].any()


# --- rescale


def slow_rescale(config, variables, bases, reference):
    """The rule written out with Jacobians: one matrix a layer, one multiplier a unit."""
    module = functional.bind(config, variables)

    def linear(function, x, r):
        """Outputs for both, and the Jacobian of a linear function."""
        jitted = jax.jit(function)
        jacobian = jax.jit(jax.jacobian(lambda v: function(v[None])[0]))(x)
        return jitted(x[None])[0], jitted(r[None])[0], np.asarray(jacobian)

    def quotient(function, x, r):
        fx, fr = (np.asarray(function(jnp.asarray(v))) for v in (x, r))
        change = np.asarray(x) - np.asarray(r)
        slope = np.asarray(jax.vmap(jax.grad(function))(jnp.ravel(jnp.asarray(x)))).reshape(x.shape)
        return (
            fx,
            fr,
            np.where(np.abs(change) < 1e-6, slope, (fx - fr) / np.where(change, change, 1)),
        )

    def chain(total, jacobian, shape):
        return np.tensordot(total.reshape(total.shape[0], -1), jacobian.reshape(-1, *shape), 1)

    x, r = jnp.asarray(bases), jnp.asarray(reference)
    x1, r1, jac = linear(lambda v: module.encoder.stem(v, same=True), x, r)
    total = np.eye(x.size).reshape(x.size, *x.shape)
    total = np.moveaxis(jac.reshape(x1.size, x.size), 0, 1).reshape(x.size, *x1.shape)
    x, r, slope = quotient(layers.elu, x1, r1)
    total = total * slope[None]
    for block in module.encoder.blocks:

        def conv(v, block=block):
            return layers.affine(block.conv(v, same=True), *block.norm.fixed())

        x1, r1, jac = linear(conv, jnp.asarray(x), jnp.asarray(r))
        total = np.einsum("ilc,mdlc->imd", total, jac)
        pooled = []
        for values in (x1, r1):
            pooled.append(np.maximum(values[0::2], values[1::2]))
        route = np.zeros((len(pooled[0]), len(x1), x1.shape[1]))
        for m in range(len(pooled[0])):
            for c in range(x1.shape[1]):
                source = x1 if pooled[0][m, c] >= pooled[1][m, c] else r1
                at = 2 * m + int(source[2 * m + 1, c] > source[2 * m, c])
                change = float(x1[at, c] - r1[at, c])
                gain = float(pooled[0][m, c] - pooled[1][m, c])
                route[m, at, c] = gain / change if abs(change) >= 1e-6 else 1
        total = np.einsum("ilc,mlc->imc", total, route)
        x, r, slope = quotient(layers.elu, pooled[0], pooled[1])
        total = total * slope[None]
        x1, r1, jac = linear(
            lambda v, b=block: b.residual(v, "float32"), jnp.asarray(x), jnp.asarray(r)
        )
        inner = np.einsum("ilc,mdlc->imd", total, jac)
        ex, er, slope = quotient(layers.elu, x1, r1)
        x, r, total = x + ex, r + er, total + inner * slope[None]
    total, x, r = total.reshape(len(total), -1), x.ravel(), r.ravel()
    for index in range(module.head.count):
        dense, norm = (getattr(module.head, f"{n}_{index}") for n in ("dense", "norm"))

        def layer(v, dense=dense, norm=norm):
            return layers.affine(dense(v), *norm.fixed())

        x1, r1, jac = linear(layer, jnp.asarray(x), jnp.asarray(r))
        x, r, slope = quotient(jax.nn.relu, x1, r1)
        total = total @ jac.T * slope[None]
    return total @ np.asarray(module.head.output.kernel[...])[:, 0]


def test_rescale_is_the_rule_written_out():
    config = ActivityConfig(
        encoder=EncoderConfig(stem_channels=3, channels=(3, 2)), window_bp=16, hidden=3
    )
    variables = tiny_models.random_variables(config, seed=4)
    rng = np.random.default_rng(0)
    bases = jnp.asarray(sequence.one_hot(tiny_inputs.random_codes(rng, 16, 0.1)))
    reference = jnp.asarray(sequence.one_hot(tiny_inputs.random_codes(rng, 16, 0.0)))
    found = RESCALE(config, variables, bases[None], reference[None])
    expected = slow_rescale(config, variables, bases, reference).reshape(16, 4)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found.multipliers[0], expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pool": "mean"},
        {"hidden": 0},
        {"strands": "both"},
        {"mixer_channels": (3,), "mixer_widths": (3,), "mixer_dilations": (2,)},
    ],
    ids=str,
)
def test_rescale_is_complete_for_every_variant(fields):
    config = dataclasses.replace(tiny_models.ACTIVITY, **fields)
    variables = tiny_models.random_variables(config, seed=2)
    rng = np.random.default_rng(1)
    pairs = [[tiny_inputs.random_codes(rng, 32, 0.1) for _ in range(5)] for _ in range(2)]
    bases, reference = (jnp.stack([sequence.one_hot(c) for c in own]) for own in pairs)
    found = RESCALE(config, variables, bases, reference)
    valid = jnp.ones((5, 32), bool)
    for values, given in ((found.value, bases), (found.reference_value, reference)):
        expected = ACTIVITY_OF(config, variables, given, valid)
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    total = (found.multipliers * (bases - reference)).sum(axis=(1, 2))
    change = found.value - found.reference_value
    assert np.abs(change).max() > 1e-3
    np.testing.assert_allclose(total, change, atol=1e-5 + 1e-4 * np.abs(change).max())


def test_without_a_kink_rescale_is_the_gradient():
    """ReLUs that all stay open and one linear map: multipliers and gradients agree."""
    config = dataclasses.replace(tiny_models.ACTIVITY, hidden=0)
    variables = tiny_models.random_variables(config, seed=2)
    rng = np.random.default_rng(3)
    bases = jnp.asarray(sequence.one_hot(tiny_inputs.random_codes(rng, 32, 0))[None])
    near = bases + 1e-7 * rng.normal(size=bases.shape).astype(np.float32)
    valid = jnp.ones((1, 32), bool)
    gradient = jax.grad(lambda b: ACTIVITY_OF(config, variables, b, valid).sum())(bases)
    found = RESCALE(config, variables, bases, near)
    np.testing.assert_allclose(found.multipliers, gradient, atol=1e-5)


def test_rescale_over_shuffles_is_complete():
    model = model_of(ACTIVITY)
    found = attribution.attribute([model], regions_of(WINDOW, 40), method="rescale", shuffles=5)
    assert (found.completeness_error < 1e-3).all()


# --- strands, folds, errors, files


def test_strands_averaged_mirror_under_reverse_complement():
    model = model_of(ACTIVITY)
    regions = regions_of(WINDOW, 30)
    turned = [dataclasses.replace(r, codes=sequence.reverse_complement(r.codes)) for r in regions]
    one, other = (
        attribution.attribute([model], given, reference="uniform", steps=8, average_strands=True)
        for given in (regions, turned)
    )
    for row, region in enumerate(regions):
        length = len(region.codes)
        mirrored = other.hypothetical[row, :, :length][::-1, ::-1]
        np.testing.assert_allclose(one.hypothetical[row, :, :length], mirrored, atol=1e-5)
    np.testing.assert_allclose(one.prediction, other.prediction, rtol=1e-5)


def test_each_window_is_attributed_by_the_fold_that_tests_it():
    models = [model_of(ACTIVITY, seed=k, fold=f"fold_{k}") for k in (1, 2)]
    (region,) = regions_of(WINDOW)
    given = [dataclasses.replace(region, split=split) for split in ("chr1", "chr2", "chr10")]
    found = attribution.attribute(models, given, method="gradient")
    alone = [attribution.attribute([m], [region], method="gradient") for m in models]
    np.testing.assert_allclose(found.hypothetical[0], alone[0].hypothetical[0], atol=1e-6)
    np.testing.assert_allclose(found.hypothetical[1], alone[1].hypothetical[0], atol=1e-6)
    mean = (alone[0].hypothetical[0] + alone[1].hypothetical[0]) / 2
    np.testing.assert_allclose(found.hypothetical[2], mean, atol=1e-6)
    assert list(found.fold) == ["fold_1", "fold_2", "mean of 2"]


def test_what_cannot_be_attributed_is_refused(genes):
    activity, expression = model_of(ACTIVITY), model_of(EXPRESSION)
    regions = attribution.gene_regions(genes, expression, ["promoter"])
    with pytest.raises(ValueError, match="rescale has no rule for attention"):
        attribution.attribute([expression], regions, genes=genes, method="rescale", force=True)
    with pytest.raises(ValueError, match="given sequences without genes"):
        attribution.attribute([expression], regions)
    with pytest.raises(ValueError, match="has 65 bases, expected 1 to 64"):
        attribution.attribute([activity], regions_of(65))
    with pytest.raises(ValueError, match="steps is 0"):
        attribution.attribute([activity], regions_of(10), steps=0)
    with pytest.raises(ValueError, match="no sequence to attribute"):
        attribution.attribute([activity], [])


def test_the_file_holds_what_was_computed_and_is_read_back(tmp_path):
    model = model_of(ACTIVITY)
    found = attribution.attribute([model], regions_of(WINDOW, 30), reference="uniform", steps=4)
    found.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        assert set(file.files) >= {"one_hot", "contributions", "hypothetical", "chrom", "start"}
        np.testing.assert_array_equal(file["contributions"], found.contributions)
    read = attribution_file.read(tmp_path / "a.npz")
    np.testing.assert_array_equal(read.hypothetical, found.hypothetical)
    np.savez(tmp_path / "ism.npz", one_hot=found.one_hot, ism=found.hypothetical + 3)
    again = attribution_file.read(tmp_path / "ism.npz")
    centred = found.hypothetical - found.hypothetical.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(again.hypothetical, centred, atol=1e-5)
    (tmp_path / "no.npz").write_text("no")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for name, message in {"no": "is no .npz file", "other": "holds x", "gone": "no such"}.items():
        with pytest.raises(ValueError, match=message):
            attribution_file.read(tmp_path / f"{name}.npz")


def test_the_command_attributes_windows_sequences_and_genes(tmp_path, capsys):
    for config, name in ((ACTIVITY, "encoder"), (EXPRESSION, "genes")):
        variables = jax.device_get(tiny_models.random_variables(config, seed=1))
        checkpoint.save_model(tmp_path / name, variables, info_of(config))
    paths = tiny_inputs.write_tables(tmp_path)
    rows = [["chr1", 100, 164], ["chrX", 3950, 4010]]
    windows = tiny_inputs.write_tsv(tmp_path / "w.tsv", ["chrom", "start", "end"], rows)
    short = ["--method", "gradient", "--cache-dir", tmp_path, "--out", tmp_path / "out.npz"]
    asked = ["--model", tmp_path / "encoder", "--fasta", paths["fasta"], "--windows", windows]
    assert cli.main(["attribution", *map(str, [*asked, *short])]) == 0
    with np.load(tmp_path / "out.npz") as file:
        assert list(file["start"]) == [100, 3950] and list(file["chrom"]) == ["chr1", "chrX"]
        assert list(file["name"]) == ["chr1:101-164", "chrX:3951-4010"]
    asked = ["--model", tmp_path / "genes", "--fasta", paths["fasta"], "--genes", paths["genes"]]
    asked += ["--links", paths["links"], "--gene", "G1", "--roles", "element", "--force"]
    assert cli.main(["attribution", *map(str, [*asked, *short])]) == 0
    with np.load(tmp_path / "out.npz") as file:
        assert set(file["role"]) == {"element"} and set(file["gene_id"]) == {"G1"}
        element = list(file["start"]).index(4300)  # 4000-5001 cropped to 400 around 4500
        assert file["length"][element] == 400
    assert str(tmp_path / "out.npz") in capsys.readouterr().out
    model = epinformer_jax.load_model(tmp_path / "genes")
    given = (paths["genes"], paths["links"])
    short = {"method": "gradient", "force": True, "gene_ids": ["G1"], "roles": ["promoter"]}
    found = model.attribution(*given, fasta=paths["fasta"], **short)
    assert list(found.role) == ["promoter"] and found.hypothetical.any()
    encoder = epinformer_jax.load_model(tmp_path / "encoder")
    assert encoder.attribution(["ACGT" * 9, "ACG"], method="gradient").one_hot.shape == (2, 4, 36)
    assert cli.main(["attribution", *map(str, [*asked, "--out", "x.tsv"])]) == 2
