"""Converting published PyTorch files: where every tensor goes, what is saved."""

import argparse
import dataclasses
import hashlib
import math

import jax
import numpy as np
import pytest
from torch_files import CHANNELS, RUN_NAME, TINY, activity_tensors, write

from epinformer_jax import convert, torch_names, torch_zip
from epinformer_jax.data import features, folds
from epinformer_jax.model import functional
from epinformer_jax.model.architecture import ExpressionConfig
from epinformer_jax.train import checkpoint


@pytest.fixture
def tensors():
    return activity_tensors()


@pytest.fixture
def weights(tmp_path, tensors):
    return write(tmp_path / "encoder.pt", tensors)


def leaves(tree):
    return {path: np.asarray(leaf) for path, leaf in checkpoint.flatten(tree._asdict()).items()}


# --- placing


def test_the_network_is_recognised(tensors):
    assert torch_names.recognise(tensors) == TINY


def test_a_bias_before_batch_norm_goes_into_its_mean(tensors):
    tree = torch_names.variables_of(tensors, TINY)
    mean = tensors["embedToAct.6.running_mean"] - tensors["embedToAct.5.bias"]
    np.testing.assert_array_equal(tree.stats["head"]["norm_1"]["mean"], mean)
    assert "bias" not in tree.params["head"]["dense_1"]


def test_the_head_takes_positions_outermost(tensors):
    kernel = torch_names.variables_of(tensors, TINY).params["head"]["dense_0"]["kernel"]
    channels, positions = CHANNELS[-1], 4
    for channel in range(channels):
        for position in range(positions):
            theirs = tensors["embedToAct.1.weight"][:, channel * positions + position]
            np.testing.assert_array_equal(kernel[position * channels + channel], theirs)


def test_every_tensor_but_the_counters_reaches_the_model(tensors):
    before = leaves(torch_names.variables_of(tensors, TINY))
    for key in tensors:
        if key.endswith("num_batches_tracked"):
            continue
        changed = {**tensors, key: tensors[key] + np.float32(1)}
        after = leaves(torch_names.variables_of(changed, TINY))
        differing = [path for path in before if not np.array_equal(before[path], after[path])]
        assert len(differing) == 1, f"{key} reaches {differing}"


def test_each_missing_tensor_is_an_error(tensors):
    for key in tensors:
        if key.endswith("num_batches_tracked"):
            continue
        fewer = {other: value for other, value in tensors.items() if other != key}
        with pytest.raises(ValueError):
            torch_names.variables_of(fewer, torch_names.recognise(fewer))
    del tensors["encoder.conv_tower.1.0.weight"]
    with pytest.raises(ValueError, match=r"tensor encoder\.conv_tower\.1\.0\.weight .*missing"):
        torch_names.variables_of(tensors, torch_names.recognise(tensors))


def test_each_wrong_shape_is_an_error(tensors):
    for key, value in tensors.items():
        if key.endswith("num_batches_tracked"):
            continue
        wider = {**tensors, key: np.concatenate([value, value])}
        with pytest.raises(ValueError):
            torch_names.variables_of(wider, torch_names.recognise(wider))
    wider = {**tensors, "encoder.stem_conv.0.bias": np.zeros(7, np.float32)}
    with pytest.raises(ValueError, match=r"encoder\.stem_conv\.0\.bias has shape \(7,\), expected"):
        torch_names.variables_of(wider, torch_names.recognise(wider))


def test_a_tensor_without_a_place_is_an_error(tensors):
    more = {**tensors, "encoder.gate.weight": np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match=r"no place .*encoder\.gate\.weight of shape \(3,\)"):
        torch_names.variables_of(more, torch_names.recognise(more))


def test_a_foreign_network_is_refused(tmp_path):
    path = write(tmp_path / "resnet.pt", {"layer1.0.conv1.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match="resnet.pt: its tensors .*belong neither"):
        convert.convert(path, tmp_path / "model")


# --- the model directory


def test_a_saved_model_is_loaded_bit_for_bit(weights, tensors, tmp_path):
    path = convert.convert(weights, tmp_path / "model", fold="fold_3")
    variables, info = checkpoint.load_model(path)
    expected = leaves(torch_names.variables_of(tensors, TINY))
    got = leaves(variables)
    assert list(got) == list(expected)
    for key, value in expected.items():
        assert got[key].dtype == np.float32 and got[key].tobytes() == value.tobytes(), key
    assert info.model == TINY and info.label == "log2_activity" and info.fold == "fold_3"
    assert info.label_transform == {"name": "log2", "offset": 0.1}
    assert (info.unknown_base, info.schema, info.element_rule) == (0.25, None, {})
    assert info.chromosomes["test"] == ["chr4", "chr14"] and info.genome == "hg38"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in info.source


def test_converting_twice_gives_the_same_bytes_and_never_overwrites(weights, tmp_path):
    digests = []
    for folder in ("one", "two"):
        path = convert.convert(weights, tmp_path / folder, fold="fold_3")
        variables, _ = checkpoint.load_model(path)
        digests.append({key: leaf.tobytes() for key, leaf in leaves(variables).items()})
    assert digests[0] == digests[1]
    with pytest.raises(ValueError, match="exists already"):
        convert.convert(weights, tmp_path / "one", fold="fold_3")


def test_an_unknown_file_without_a_fold_is_never_held_out(weights, tmp_path, caplog):
    path = convert.convert(weights, tmp_path / "model")
    _, info = checkpoint.load_model(path)
    assert info.fold == "" and info.chromosomes == {"train": [], "valid": [], "test": []}
    assert "pass --fold" in caplog.text and RUN_NAME in caplog.text


def test_arguments_that_do_not_fit_are_refused(weights, tensors, tmp_path):
    faults = {
        "unknown fold 'fold_enformer'; known: fold_1": {"fold": "fold_enformer"},
        "activity model and its label is rna": {"label": "rna"},
        "preset 'legacy' is unknown": {"preset": "legacy"},
        "0 mixer convolutions, but 2 dilations": {"mixer_dilations": (1, 2)},
    }
    for message, arguments in faults.items():
        with pytest.raises(ValueError, match=message):
            convert.convert(weights, tmp_path / "model", **arguments)
    unnamed = write(tmp_path / "unnamed.pt", tensors, run_name="archive")
    with pytest.raises(ValueError, match="label is not known; pass --label log2_activity or log10"):
        convert.convert(unnamed, tmp_path / "model")
    path = convert.convert(unnamed, tmp_path / "model", label="log10_activity")
    assert checkpoint.load_model(path)[1].label_transform == {"name": "log10", "offset": 0.1}


def test_the_command_says_what_it_converted(weights, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    out = tmp_path / "model"
    options = ["--weights", weights, "--preset", "published", "--out", out, "--fold", "fold_3"]
    convert.run(parser.parse_args([str(option) for option in options]))
    expected = f"{out}: activity model, log2_activity, fold_3, tests chr4, chr14\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("run_name", "origin"),
    [
        ("fold_1_best_K562_seq2activityLog2_leaveChrOut", ("K562", "log2_activity", "fold_1")),
        ("fold_12_final_GM12878_seq2activity_leave", ("GM12878", "log10_activity", "fold_12")),
        ("fold_2_best_tunedEPInformerV2.60enh.K562.rm.RNA_checkpoint", ("K562", "rna", "fold_2")),
        ("x.GM12878.CAGE_checkpoint", ("GM12878", "cage", "")),
        ("archive", ("", "", "")),
    ],
)
def test_run_names_say_cell_label_and_fold(run_name, origin):
    assert convert._named(run_name) == origin


# --- the published files


def published(shared_data):
    return sorted((shared_data / "weights").glob("*/*.pt"))


def test_the_table_knows_every_published_file(shared_data):
    known = convert.known_files()
    found = {}
    for path in published(shared_data):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found[digest] = path
        assert known[digest].fold == path.stem
        named = convert._named(torch_zip.read_torch_file(path).run_name)
        truth = convert._origin(
            known[digest].kind, known[digest], named, convert.Origin("", "", "")
        )
        assert named == truth
    assert found.keys() == known.keys() and len(known) == 25


def test_every_number_of_the_published_files_is_accounted_for(shared_data):
    for path in published(shared_data):
        file = torch_zip.read_torch_file(path)
        config = torch_names.recognise(file.tensors, run_name=file.run_name)
        ours = sum(
            leaf.size for leaf in leaves(torch_names.variables_of(file.tensors, config)).values()
        )
        counters = sum(key.endswith("num_batches_tracked") for key in file.tensors)
        norms = [key for key in file.tensors if key.endswith("running_mean")]
        folded = sum(file.tensors[key].size for key in norms)
        theirs = sum(math.prod(value.shape) for value in file.tensors.values())
        assert ours == theirs - counters - folded, path


def test_a_published_expression_model_is_described(shared_data, tmp_path):
    weights = shared_data / "weights" / "expression_K562_PE_Activity_HiC_RNA" / "fold_11.pt"
    with pytest.raises(ValueError, match="fold 'fold_2' was given, but the file is a published"):
        convert.convert(weights, tmp_path / "model", fold="fold_2")
    _, info = checkpoint.load_model(convert.convert(weights, tmp_path / "model"))
    assert features.from_dict(info.schema) == features.schema("published", "PE-Activity-HiC")
    assert info.label == "rna" and info.label_transform["sd"] == pytest.approx(1.06220, abs=1e-4)
    assert set(info.feature_quantiles) == {"activity", "promoter_activity"}
    fold = folds.published_folds()["fold_11"]
    assert info.chromosomes["test"] == list(fold.test) == ["chr22", "chrX"]
    assert info.element_rule["max_elements"] == 60 and info.model.heads == 4
    assert "loss -0.7615" in info.source


@pytest.mark.parametrize(("links", "genes"), [(0, 9), (1, 8), (2, 8), (3, 9)])
def test_the_schema_has_as_many_features_as_the_network(links, genes):
    for preset in convert.SCHEMAS:
        config = _with(links, genes)
        schema = convert._schema(config, preset)
        assert len(schema.link_features) == links and len(schema.gene_features) == genes
        has_promoter_signal = any(link.promoter_source for link in schema.link_features)
        assert not (has_promoter_signal and genes == 8)


def _with(links, genes):
    return dataclasses.replace(ExpressionConfig(), link_features=links, gene_features=genes)


def test_a_published_file_trimmed_of_a_tensor_is_refused(shared_data):
    weights = shared_data / "weights" / "expression_K562_PE_Activity_CAGE" / "fold_1.pt"
    tensors = dict(torch_zip.read_torch_file(weights).tensors)
    for key in list(tensors):
        if key.endswith("num_batches_tracked"):
            continue
        fewer = {other: value for other, value in tensors.items() if other != key}
        with pytest.raises(ValueError):
            torch_names.variables_of(fewer, torch_names.recognise(fewer))
    stale = {**tensors, "attn_encoder.0.linear1.weight": np.zeros((256, 64), np.float32)}
    config = torch_names.recognise(stale)
    assert jax.tree.structure(torch_names.variables_of(stale, config)) == jax.tree.structure(
        functional.shapes(config)
    )
