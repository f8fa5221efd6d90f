"""`epinformer_jax.load_model`: tables, records, sequences in, NumPy and pandas out; tiny models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import tiny_inputs
import tiny_models
from pandas.testing import assert_frame_equal

import epinformer_jax
from data_prep import builder
from epinformer_jax import convert
from epinformer_jax.analysis import inputs, predict
from epinformer_jax.data import features, records, sequence
from epinformer_jax.data.elements import ElementRule
from epinformer_jax.data.genome import Genome
from epinformer_jax.model import functional
from epinformer_jax.model.architecture import ActivityConfig, EncoderConfig, ExpressionConfig
from epinformer_jax.train import checkpoint
from epinformer_jax.train.checkpoint import ModelInfo

ENCODER = EncoderConfig(stem_channels=4, channels=(4, 3, 4))
RULE = ElementRule(min_distance_bp=900, max_distance_bp=8000, max_elements=3, window_bp=400)
EXPRESSION = ExpressionConfig(
    encoder=ENCODER,
    window_bp=400,
    slots=4,
    summary_channels=4,
    summary_dilations=(1, 2),
    summary_outputs=4,
    embedding=8,
    heads=2,
    layers=2,
    hidden=4,
)
ACTIVITY = ActivityConfig(encoder=ENCODER, window_bp=64, hidden=4)
PARTS = {
    "fold_1": {"train": ["chr2"], "valid": ["chr10"], "test": ["chr1"]},
    "fold_2": {"train": ["chr1"], "valid": ["chr10"], "test": ["chr2", "chrX"]},
}


def save(directory, config, fold, *, seed=1):
    described = {
        "label": "rna",
        "schema": features.schema("published", "PE-Activity-HiC").to_dict(),
        "element_rule": RULE.to_dict(),
        "promoter_bp": 400,
    }
    if config.kind == "activity":
        described = {"label": "log2_activity", "label_transform": {"name": "log2", "offset": 0.1}}
    variables = jax.device_get(tiny_models.random_variables(config, seed=seed))
    info = ModelInfo(config, fold=fold, chromosomes=PARTS[fold], **described)
    checkpoint.save_model(directory, variables, info)
    return directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Saved models, tables and a built data set."""
    folder = tmp_path_factory.mktemp("api")
    paths = tiny_inputs.write_tables(folder)
    save(folder / "activity", ACTIVITY, "fold_1")
    for number in (1, 2):
        fold = folder / "run" / f"fold_{number}"
        save(fold, EXPRESSION, f"fold_{number}", seed=number)
        save(fold / "encoder", ACTIVITY, f"fold_{number}", seed=number)
    builder.build(folder / "set", **paths, rule=RULE, promoter_bp=400, show_progress=False)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return epinformer_jax.load_model(folder / "run" / "fold_1")


@pytest.fixture(scope="module")
def encoder(folder):
    return epinformer_jax.load_model(folder / "activity")


@pytest.fixture(scope="module")
def given(folder):
    """Genes and links as paths, and the genome."""
    tables = (folder / "genes.tsv", folder / "links.tsv")
    return tables, folder / "tiny.fa"


def test_model_shows_what_it_is(model, encoder):
    assert model.config == EXPRESSION and model.info.fold == "fold_1"
    assert encoder.config == ACTIVITY and encoder.info.label == "log2_activity"
    assert model.variables.params["head"]["output"]["kernel"].shape == (4, 1)
    assert "rna" in repr(model) and "activity" in repr(encoder)


def test_paths_frames_records_and_data_sets_give_the_same_predictions(model, folder, given):
    (genes, links), fasta = given
    by_path = model.predict(genes, links, fasta=fasta)
    frames = [pd.read_csv(path, sep="\t") for path in (genes, links)]
    with Genome(fasta) as genome:
        by_frame = model.predict(*frames, fasta=genome)
    assert_frame_equal(by_path, by_frame)
    manifest, examples = records.read_dataset(folder / "set" / "genes")
    by_records = model.predict(examples[:2], manifest=manifest).set_index("gene_id")
    by_dataset = model.predict(folder / "set" / "genes").set_index("gene_id")
    whole = by_path.set_index("gene_id")["prediction"]
    assert len(by_records) == 2 and len(by_dataset) == 4
    for table in (by_records, by_dataset):
        np.testing.assert_allclose(table["prediction"], whole[table.index], rtol=1e-5)


def test_attention_has_a_row_for_each_element(model, given):
    tables, fasta = given
    table = model.predict(*tables, fasta=fasta)
    attention = model.attention(*tables, fasta=fasta)
    assert len(attention) == table["n_elements"].sum() > 2
    assert attention["attention"].between(0, 1).all()


def test_a_run_predicts_each_gene_by_the_fold_that_tests_it(folder, given):
    run = epinformer_jax.load_model(folder / "run")
    tables, fasta = given
    table = run.predict(*tables, fasta=fasta).set_index("chrom")
    assert table.loc["chr1", "fold"] == "fold_1" and table.loc["chrX", "fold"] == "fold_2"
    alone = epinformer_jax.load_model(folder / "run" / "fold_2")
    by_two = alone.predict(*tables, fasta=fasta).set_index("chrom")
    assert table.loc["chrX", "prediction"] == pytest.approx(by_two.loc["chrX", "prediction"])
    with pytest.raises(ValueError, match="2 models are loaded"):
        _ = run.variables


def test_a_run_of_expression_models_gives_its_encoders_too(folder):
    encoders = epinformer_jax.load_model(folder / "run", kind="activity")
    alone = epinformer_jax.load_model(folder / "run" / "fold_2" / "encoder")
    assert [member.name for member in encoders.members] == ["fold_1", "fold_2"]
    pd.testing.assert_frame_equal(
        epinformer_jax.load_model(folder / "run" / "fold_2", "activity").activity("ACGT" * 8),
        alone.activity("ACGT" * 8),
        check_like=True,
    )
    with pytest.raises(ValueError, match="holds an activity model, expected an expression"):
        epinformer_jax.load_model(folder / "activity", kind="expression")


def test_average_of_strands_is_the_mean_of_both(model, given):
    (genes, links), fasta = given
    with Genome(fasta) as genome:
        forward = inputs.from_tables(genes, links, genome, rule=RULE, promoter_bp=400)
    reverse = inputs.other_strand(forward)
    assert inputs.other_strand(reverse).examples == forward.examples
    one, two = (model.predict(own)["prediction"].to_numpy() for own in (forward, reverse))
    both = model.predict(forward, average_strands=True)["prediction"]
    assert np.abs(one - two).max() > 1e-4
    np.testing.assert_allclose(both, (one + two) / 2, rtol=1e-5)
    attention = [
        model.attention(own, average_strands=average)["attention"].to_numpy()
        for own, average in ((forward, False), (reverse, False), (forward, True))
    ]
    np.testing.assert_allclose(attention[2], (attention[0] + attention[1]) / 2, rtol=1e-5)


def test_sequences_come_in_every_form(encoder, folder, given):
    _, fasta = given
    with Genome(fasta) as genome:
        codes = [genome.fetch("chr1", start, start + 50) for start in (100, 500)]
    texts = [sequence.decode(own) for own in codes]
    expected = encoder.activity(texts)["log2_activity"].to_numpy()
    assert expected[0] != expected[1]
    windows = pd.DataFrame({"chrom": "chr1", "start": [100, 500], "end": [150, 550]})
    with_text = pd.DataFrame({"sequence": texts, "split": ["chr1", "chr2"]})
    (folder / "two.fa").write_text("".join(f">s{i}\n{text}\n" for i, text in enumerate(texts)))
    for found in (
        encoder.activity(codes),
        encoder.activity({"a": texts[0], "b": texts[1]}),
        encoder.activity(windows, fasta=fasta),
        encoder.activity(with_text),
        encoder.activity(fasta=folder / "two.fa"),
    ):
        np.testing.assert_allclose(found["log2_activity"], expected, rtol=1e-6)
    assert list(encoder.activity({"a": texts[0], "b": texts[1]})["name"]) == ["a", "b"]
    assert list(encoder.activity(with_text)["in_training"]) == ["no", "yes"]
    alone = encoder.activity(texts[1])
    assert len(alone) == 1 and alone["log2_activity"][0] == pytest.approx(expected[1])


def test_activity_of_window_records_knows_their_chromosome(encoder):
    rng = np.random.default_rng(0)
    windows = [tiny_inputs.window_example(rng, f"w{i}", f"chr{i}", 60) for i in (1, 2)]
    table = encoder.activity(windows)
    assert list(table["name"]) == ["w1", "w2"] and list(table["in_training"]) == ["no", "yes"]


def test_embedding_is_what_the_pure_function_gives(model):
    rng = np.random.default_rng(3)
    codes = [tiny_inputs.random_codes(rng, 400), tiny_inputs.random_codes(rng, 123)]
    found = model.embed(codes, batch_size=1)
    bases, valid = np.zeros((2, 400, 4), np.float32), np.zeros((2, 400), bool)
    for row, own in enumerate(codes):
        inside = slice(200 - len(own) // 2, 200 - len(own) // 2 + len(own))
        bases[row, inside], valid[row, inside] = sequence.one_hot(own), True
    expected = functional.encode(
        model.config, jax.device_put(model.variables), jnp.asarray(bases), jnp.asarray(valid)
    )
    assert isinstance(found, np.ndarray) and found.shape == (2, 8)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    turned = [sequence.reverse_complement(own) for own in codes]
    both = model.embed(codes, average_strands=True)
    np.testing.assert_allclose(both, (found + model.embed(turned)) / 2, rtol=1e-5, atol=1e-6)


def test_activity_model_embeds_and_a_constant_sequence_has_one_vector(encoder):
    found = encoder.embed(["A" * 64, "A" * 64, "C" * 64])
    assert found.shape == (3, 4)
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-4


def test_wrong_uses_say_what_to_do(model, encoder, folder, given):
    (genes, links), fasta = given
    frame = pd.read_csv(genes, sep="\t").drop(columns="tss")
    for call, message in (
        (lambda: encoder.predict(genes, links, fasta=fasta), "activity model.*load an expression"),
        (lambda: model.activity("ACGT"), "expression model.*load an activity"),
        (lambda: model.predict(genes, links), "pass fasta="),
        (lambda: model.predict([]), "pass manifest="),
        (lambda: model.predict(frame, links, fasta=fasta), "the frame of genes.*'tss'"),
        (lambda: encoder.activity("ACGT" * 20), "80 bases, expected 1 to 64"),
        (lambda: encoder.embed(""), "0 bases"),
        (lambda: encoder.activity(), "give sequences or fasta="),
        (lambda: epinformer_jax.load_model(folder / "set"), "holds no model"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_cell_is_stored_and_older_checkpoints_have_none():
    info = ModelInfo(ACTIVITY, cell="K562")
    assert ModelInfo.from_dict(info.to_dict()) == info
    older = {key: value for key, value in info.to_dict().items() if key != "cell"}
    assert ModelInfo.from_dict(older) == dataclasses.replace(info, cell="")


ON_EIGHT_DEVICES = """
import sys, jax, numpy as np
from epinformer_jax.analysis import ensembles, inputs, predict
from epinformer_jax.data import features
from epinformer_jax.data.layouts import Geometry
from epinformer_jax.train import checkpoint, devices, loop, tasks

model_dir, set_dir, out = sys.argv[1:]
assert len(jax.devices()) == 8
models = ensembles.load_models([model_dir], kind="expression")
model = models[0]
genes = inputs.from_dataset(set_dir, rule=predict.rule_of(model))
plain = predict.predict_expression(models, genes).predictions["prediction"]
info = model.info
data = inputs.on_scale_of(genes, features.from_dict(info.schema), info.model.slots - 1)
plan = data.plan(geometry=Geometry(**info.model.geometry()), batch_size=2, slots=info.model.slots,
                 layouts=1)
objective = tasks.Objective(info.model, "mse", unknown_base=info.unknown_base)
step = loop.predict_step(objective)
variables = devices.put_replicated(model.variables)
halves = [data.batch(np.arange(i, i + 2), plan) for i in (0, 2)]
dealt = [step(variables, devices.put_batch(half))[0] for half in halves]
leaves = checkpoint.flatten(model.variables._asdict())
np.savez(out, plain=plain, dealt=np.concatenate(dealt), **leaves)
"""


def test_model_is_the_same_on_another_number_of_devices(folder, model, run_python, tmp_path):
    directory, out = folder / "run" / "fold_1", tmp_path / "eight.npz"
    done = run_python("-c", ON_EIGHT_DEVICES, directory, folder / "set" / "genes", out, devices=8)
    assert done.returncode == 0, done.stderr
    here = predict.predict_expression(
        model.members, inputs.from_dataset(folder / "set" / "genes", rule=RULE)
    ).predictions["prediction"]
    found = np.load(out)
    for path, leaf in checkpoint.flatten(model.variables._asdict()).items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)
        assert found[path].dtype == leaf.dtype
    for name in ("plain", "dealt"):
        np.testing.assert_allclose(found[name], here, rtol=1e-6, atol=0, err_msg=name)


CONVERTED = """
import sys, jax, numpy as np, epinformer_jax
from epinformer_jax.train import checkpoint

model_dir, sequences, out = sys.argv[1:]
assert len(jax.devices()) == 8
model = epinformer_jax.load_model(model_dir)
leaves = checkpoint.flatten(model.variables._asdict())
found = model.activity(sequences.split(","))["log2_activity"]
np.savez(out, found=found, **leaves)
"""


def test_a_converted_model_is_the_same_on_another_number_of_devices(
    shared_data, run_python, tmp_path
):
    weights = shared_data / "weights" / "encoder_K562" / "fold_1.pt"
    directory = convert.convert(weights, tmp_path / "converted")
    variables, info = convert.read(weights)
    rng = np.random.default_rng(0)
    texts = [sequence.decode(tiny_inputs.random_codes(rng, 256)) for _ in range(4)]
    out = tmp_path / "eight.npz"
    done = run_python("-c", CONVERTED, directory, ",".join(texts), out, devices=8)
    assert done.returncode == 0, done.stderr
    model = epinformer_jax.load_model(directory)
    assert model.info == info and info.cell == "K562"
    here, found = model.activity(texts)["log2_activity"], np.load(out)
    for path, leaf in checkpoint.flatten(variables._asdict()).items():
        np.testing.assert_array_equal(found[path], np.asarray(leaf), err_msg=path)
    np.testing.assert_allclose(found["found"], here, rtol=1e-6, atol=0)
