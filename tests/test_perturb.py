"""Perturbation of single elements against the plain loop: a record edited, and run again."""

import argparse
import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import tiny_folds
import tiny_inputs
import tiny_models

from epinformer_jax.analysis import element_table, inputs, perturb, predict, slots
from epinformer_jax.data import features, label_scale, sequence
from epinformer_jax.model import functional

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def genes(tmp_path_factory):
    return tiny_folds.genes(tmp_path_factory.mktemp("genes"))


def again(models, genes, examples):
    """What `predict` says of genes after their records were edited by hand."""
    edited = dataclasses.replace(genes, examples=examples)
    return predict.predict_expression(models, edited).predictions["prediction"]


def rows_of(genes, table, change):
    """Example, its element's number and the table's row, of all rows of a kind of change."""
    by_id = {example.gene_id: example for example in genes.examples}
    for row in table[table["change"] == change].itertuples():
        example = by_id[row.gene_id]
        yield example, list(example.element_start).index(row.start), row


def with_signals(example, names, kinds, factor, place):
    signals = example.link_signals.copy()
    for kind in kinds:
        signals[place, names.index(kind)] *= factor
    return dataclasses.replace(example, link_signals=signals)


def with_sequence(example, place, codes):
    own = inputs.element_codes(example)
    own[place] = codes
    lengths = np.array([len(part) for part in own], np.int32)
    return dataclasses.replace(
        example, element_sequence=np.concatenate(own), element_length=lengths
    )


# --- the pure functions


class Case(NamedTuple):
    """A dense batch in float64, and its embedded slots."""

    variables: functional.Variables
    bases: jnp.ndarray
    valid: jnp.ndarray
    batch: slots.Slots
    tangents: jnp.ndarray


CONFIG = tiny_models.EXPRESSION


@pytest.fixture(scope="module")
def case():
    with jax.enable_x64():
        genes = tiny_models.random_genes(np.random.default_rng(3), CONFIG, [5, 1, 3])
        dense = tiny_models.dense(genes, CONFIG)
        variables = tiny_models.random_variables(CONFIG, seed=2, dtype=jnp.float64)
        bases, valid = jnp.asarray(dense.bases), jnp.asarray(dense.valid)
        flat, flags = bases.reshape(-1, *bases.shape[2:]), valid.reshape(-1, valid.shape[2])

        def scaled(factor):
            return functional.encode(CONFIG, variables, flat * factor, flags)

        both = jax.jit(lambda one: jax.jvp(scaled, (one,), (one,)))(jnp.float64(1))
        embeddings, tangents = (x.reshape(*bases.shape[:2], -1) for x in both)
        scalars = jnp.asarray(dense.link_features), jnp.asarray(dense.gene_features)
        batch = slots.Slots(embeddings, valid.any(axis=2), *scalars)
        yield Case(variables, bases, valid, batch, tangents)


def test_removals_equal_the_dense_model_without_the_element(case):
    with jax.enable_x64():
        predicted = jax.jit(functional.predict, static_argnums=0)
        scalars = case.batch.link_features, case.batch.gene_features
        found = slots.compiled(slots.removals, CONFIG)(case.variables, case.batch)
        assert found.shape == (3, 4) and found.dtype == "float64"
        whole = predicted(CONFIG, case.variables, case.bases, case.valid, *scalars)[0]
        for slot in range(1, 5):
            without = case.valid.at[:, slot].set(False)
            expected = predicted(CONFIG, case.variables, case.bases, without, *scalars)[0]
            np.testing.assert_allclose(found[:, slot - 1], expected, rtol=0, atol=1e-10)
        assert np.abs(found - whole[:, None])[case.batch.mask[:, 1:]].min() > 1e-6
        np.testing.assert_allclose(found[1], whole[1], rtol=0, atol=1e-10)  # has no element


def test_gradient_times_input_is_that_of_the_dense_model(case):
    with jax.enable_x64():
        links, scalars = case.batch.link_features, case.batch.gene_features

        def expression(bases, links):
            given = (bases, case.valid, links, scalars)
            return functional.predict(CONFIG, case.variables, *given)[0].sum()

        by_base, by_link = jax.jit(jax.grad(expression, argnums=(0, 1)))(case.bases, links)
        gradients = slots.compiled(slots.gradient_times_input, CONFIG)
        own, signals = gradients(case.variables, case.batch, case.tangents)
        expected = (by_base * case.bases).sum((2, 3))
        np.testing.assert_allclose(own, expected, rtol=0, atol=1e-10)
        np.testing.assert_allclose(signals, by_link * links, rtol=0, atol=1e-10)
        assert np.abs(own[:, 1:]).max() > 1e-6


def test_packed_embeddings_and_tangents_are_those_of_the_encoder():
    config = tiny_models.EXPRESSION
    genes = tiny_models.random_genes(np.random.default_rng(5), config, [4, 1, 5, 2])
    variables = tiny_models.random_variables(config, seed=4)
    genes.sequences[3].codes[1] = genes.sequences[0].codes[2]  # an element of two genes
    dense = tiny_models.dense(genes, config)
    model = tiny_folds.model(config=config)._replace(variables=jax.device_get(variables))
    found = slots.embed_all(model, genes.sequences, batch_size=3, with_tangents=True)
    plain = slots.embed_all(model, genes.sequences, batch_size=3)

    @jax.jit
    def encoder(bases, valid, one=1.0):
        def scaled(factor):
            return functional.encode(config, variables, bases * factor, valid)

        return jax.jvp(scaled, (one,), (one,))

    for gene, own in enumerate(found):
        count = len(genes.sequences[gene].codes)
        expected = encoder(dense.bases[gene].astype(np.float32), dense.valid[gene])
        assert own.embeddings.shape == (count, config.embedding)
        np.testing.assert_allclose(own.embeddings, expected[0][:count], rtol=0, atol=1e-5)
        np.testing.assert_allclose(own.tangents, expected[1][:count], rtol=0, atol=1e-5)
        np.testing.assert_allclose(plain[gene].embeddings, own.embeddings, rtol=0, atol=1e-5)


def test_every_gene_with_elements_is_in_exactly_one_batch():
    counts = np.array([0, 1, 60, 8, 9, 0, 33, 60, 16])
    config = dataclasses.replace(tiny_models.EXPRESSION, slots=61)
    seen = []
    for size, at_once, places in slots.batches_of(counts, config):
        assert 0 < len(places) <= at_once and at_once * size * (size - 1) <= 2 * 2**15
        assert size in (9, 17, 33, 61) and (counts[places] < size).all()
        seen += list(places)
    assert sorted(seen) == [1, 2, 3, 4, 6, 7, 8]


# --- the tables


def test_effects_equal_running_the_edited_genes_again(genes):
    models, names = tiny_folds.models(), list(genes.link_signal_names)
    swap = tiny_inputs.random_codes(np.random.default_rng(1), 120)
    table = perturb.perturb_elements(
        models,
        genes,
        activity_doses=(0.0, 2.0),
        contact_doses=(0.5,),
        swaps={"other": swap},
        swap_elements=True,
        batch_size=2,
    )
    whole = predict.predict_expression(models, genes).predictions.set_index("gene_id")
    expected_ref = whole.loc[table["gene_id"], "prediction"].to_numpy()
    np.testing.assert_allclose(table["prediction_ref"], expected_ref, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        table["delta"], table["prediction_alt"] - table["prediction_ref"], rtol=0, atol=1e-12
    )
    edits, found = [], []
    for change in ("remove", "activity", "contact", "swap_sequence", "swap_element"):
        for example, place, row in rows_of(genes, table, change):
            if change == "remove":
                edited = tiny_folds.without_element(example, place)
            elif change in ("activity", "contact"):
                edited = with_signals(example, names, [change], row.dose, place)
            elif row.swapped_in == "other":
                edited = with_sequence(example, place, swap)
            else:
                first = int(row.swapped_in.split(":")[1].split("-")[0]) - 1
                other = list(example.element_start).index(first)
                assert other != place
                edited = with_sequence(example, place, inputs.element_codes(example)[other])
                if change == "swap_element":
                    signals = edited.link_signals.copy()
                    column = names.index("activity")
                    signals[place, column] = signals[other, column]
                    edited = dataclasses.replace(edited, link_signals=signals)
            edits.append(edited)
            found.append(row.prediction_alt)
    np.testing.assert_allclose(found, again(models, genes, edits), rtol=0, atol=1e-5)
    elements = 2 + 2 + 1
    assert len(edits) == len(table) == elements * 5 + 2 * (2 * 1 + 2 * 1)
    assert table["delta"].abs().max() > 1e-3
    assert table.attrs["without_elements"] == ["G4"]
    assert set(table["fold"]) == {"fold_1", "fold_2"} and set(table["in_training"]) == {"no"}
    expected = table["delta"] * 1.1 * math.log2(10)
    np.testing.assert_allclose(table["log2fc"], expected, rtol=1e-6)


def test_both_strands_and_all_models_are_means(genes):
    models = tiny_folds.models()
    both = perturb.perturb_elements(models, genes, ensemble="all", average_strands=True)
    ways = [
        perturb.perturb_elements([model], own)
        for model in models
        for own in (genes, inputs.other_strand(genes))
    ]
    for column in ("prediction_ref", "prediction_alt", "delta"):
        mean = np.mean([way[column] for way in ways], axis=0)
        np.testing.assert_allclose(both[column], mean, rtol=0, atol=1e-6)
    per_model = [
        (ways[0]["delta"] + ways[1]["delta"]) / 2,
        (ways[2]["delta"] + ways[3]["delta"]) / 2,
    ]
    np.testing.assert_allclose(both["delta_sd"], np.std(per_model, axis=0), rtol=0, atol=1e-6)
    assert set(both["fold"]) == {"mean of 2"}
    assert "delta_sd" not in ways[0]


def test_swaps_on_the_other_strand_are_turned_too(genes):
    models = [tiny_folds.model()]
    swap = tiny_inputs.random_codes(np.random.default_rng(2), 99)
    there = perturb.perturb_elements(models, genes, remove=False, swaps={"x": swap})
    turned = {"x": sequence.reverse_complement(swap)}
    back = perturb.perturb_elements(models, inputs.other_strand(genes), remove=False, swaps=turned)
    both = perturb.perturb_elements(
        models, genes, remove=False, swaps={"x": swap}, average_strands=True
    )
    mean = (there["prediction_alt"] + back["prediction_alt"]) / 2
    np.testing.assert_allclose(both["prediction_alt"], mean, rtol=0, atol=1e-6)


def test_activity_doses_scale_dnase_and_h3k27ac_with_it(genes):
    schema = features.schema("log_signals", "PE-Activity").to_dict()
    config = dataclasses.replace(tiny_folds.EXPRESSION, link_features=4, gene_features=11)
    names = (*genes.link_signal_names, "dnase", "h3k27ac")
    gene_names = (*genes.gene_signal_names, "promoter_dnase", "promoter_h3k27ac")
    examples = []
    for example in genes.examples:
        links = np.c_[example.link_signals, example.link_signals[:, :1] * [[2, 0.5]]]
        scalars = np.r_[example.gene_signals, [1.0, 2.0]]
        given = {"link_signals": links.astype(np.float32), "gene_signals": scalars.astype("f")}
        examples.append(dataclasses.replace(example, **given))
    own = dataclasses.replace(
        genes, examples=examples, link_signal_names=names, gene_signal_names=gene_names
    )
    models = [tiny_folds.model(config=config, schema=schema)]
    table = perturb.perturb_elements(models, own, remove=False, activity_doses=(3.0,))
    kinds = ("activity", "dnase", "h3k27ac")
    edits = [
        with_signals(example, list(names), kinds, 3.0, place)
        for example, place, _ in rows_of(own, table, "activity")
    ]
    expected = again(models, own, edits)
    np.testing.assert_allclose(table["prediction_alt"], expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"takes no contact of elements \(it takes activity, dis"):
        perturb.perturb_elements(models, own, contact_doses=(0.5,))


def test_classes_tell_promoters_from_distal_elements():
    rows = [[900, 1100, 0], [2000, 2200, 1100], [2499, 2600, 1550], [5000, 5200, 4100]]
    table = pd.DataFrame(rows, columns=["start", "end", "distance"]).assign(chrom="chr1")
    promoters = pd.DataFrame({"chrom": ["chr1", "chr1", "chr2"], "tss": [1000, 3100, 5100]})
    found = element_table.classes_of(table, promoters)
    assert list(found) == ["self_promoter", "distal", "distal", "distal"]
    promoters["tss"] = [1000, 3099, 5100]
    assert element_table.classes_of(table, promoters)[2] == "promoter"


def test_what_cannot_be_done_is_said(genes):
    models = [tiny_folds.model()]
    with pytest.raises(ValueError, match="nothing to change"):
        perturb.perturb_elements(models, genes, remove=False)
    with pytest.raises(ValueError, match="activity dose -1"):
        perturb.perturb_elements(models, genes, activity_doses=(-1.0,))
    with pytest.raises(ValueError, match="sequence 'x' has 401 bases"):
        perturb.perturb_elements(models, genes, swaps={"x": np.ones(401, np.uint8)})
    alone = element_table.select(genes, ["G4"])
    with pytest.raises(ValueError, match="none of the 1 genes has an element"):
        perturb.perturb_elements(models, alone)
    schema = features.schema("published", "promoter").to_dict()
    config = dataclasses.replace(tiny_folds.EXPRESSION, link_features=0)
    with pytest.raises(ValueError, match="sees promoters alone"):
        perturb.perturb_elements([tiny_folds.model(config=config, schema=schema)], genes)
    with pytest.raises(ValueError, match="gene G9 is unknown; known names: G2, G1, G3, G4"):
        element_table.select(genes, ["G9"])


# --- fold changes


@pytest.mark.parametrize(
    ("text", "measured"),
    [
        ("log10,offset=1", lambda y: 10**y),
        ("log2,offset=0.1", lambda y: 2**y),
        ("ln", np.exp),
        ("z_log10,offset=0.1,mean=0.3,sd=1.7", lambda y: 10 ** (1.7 * y + 0.3)),
    ],
)
def test_fold_changes_are_ratios_of_what_was_measured_plus_its_offset(text, measured):
    per_unit = label_scale.log2_per_unit(label_scale.read_transform(text))
    for before, after in ((0.4, 0.9), (-3.0, -3.2)):
        expected = np.log2(measured(after) / measured(before))
        np.testing.assert_allclose((after - before) * per_unit, expected, rtol=1e-12)


@pytest.mark.parametrize("text", ["z_log10", "log10,offset", "sqrt", "z_ln,sd=0", "log2,x=1"])
def test_a_wrong_label_transform_is_refused(text):
    with pytest.raises(ValueError, match="label transform"):
        label_scale.read_transform(text)
    assert math.isnan(label_scale.log2_per_unit({"unit": "z(log10(RPKM + 0.1))"}))


# --- the command


def options(*arguments):
    parser = argparse.ArgumentParser()
    perturb.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def test_the_command_writes_the_effects_of_the_genes_that_were_named(genes, tmp_path, capsys):
    paths = tiny_inputs.write_tables(tmp_path)
    run = tiny_folds.save(tmp_path / "run", label_transform={"unit": "z"})
    common = [item for name, path in paths.items() for item in (f"--{name}", path)]
    common += ["--cache-dir", tmp_path / "cache", "--model", run, "--scale-activity", "0,2"]
    out = tmp_path / "out.tsv.gz"
    assert perturb.run(options(*common, "--out", out, "--gene", "G2", "G3")) == 0
    table = pd.read_csv(out, sep="\t")
    assert list(table) == [
        *("gene_id", "gene_name", "chrom", "start", "end", "class", "distance", "activity"),
        *("contact", "change", "dose", "swapped_in", "prediction_ref", "prediction_alt", "delta"),
        *("log2fc", "fold", "in_training"),
    ]
    assert list(table["gene_id"]) == ["G2"] * 6 + ["G3"] * 3
    assert table["log2fc"].isna().all()
    models = tiny_folds.models()
    all_genes = perturb.perturb_elements(models, genes, activity_doses=(0.0, 2.0))
    expected = all_genes[all_genes["gene_id"] != "G1"].sort_values(
        ["chrom", "start"], kind="stable"
    )
    expected = expected.set_index(["gene_id", "start", "change", "dose"])["delta"]
    found = table.set_index(["gene_id", "start", "change", "dose"])["delta"]
    np.testing.assert_allclose(found.loc[expected.index], expected, rtol=1e-4, atol=1e-6)
    printed = capsys.readouterr().out
    assert "2 genes with elements, 9 rows\n" in printed and printed.endswith(f"{out}\n")
    whole = [*common, "--no-removal", "--label-transform", "z_log10,sd=2", "--out", out]
    assert perturb.run(options(*whole)) == 0
    table = pd.read_csv(out, sep="\t")
    np.testing.assert_allclose(table["log2fc"], table["delta"] * 2 * math.log2(10), rtol=1e-5)
    assert "1 without elements have no row: G4" in capsys.readouterr().out
