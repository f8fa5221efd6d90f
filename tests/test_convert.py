"""Converting published PyTorch files: what is read, what is refused, where every tensor goes.

Files are assembled byte by byte here, so that damaged and hostile ones can be made and PyTorch is
not needed.
"""

import argparse
import dataclasses
import functools
import hashlib
import io
import math
import struct
import zipfile

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epinformer_jax import convert, torch_names, torch_zip
from epinformer_jax.data import features, folds
from epinformer_jax.model import functional
from epinformer_jax.model.architecture import ActivityConfig, EncoderConfig, ExpressionConfig
from epinformer_jax.train import checkpoint

RUN_NAME = "fold_3_best_K562_seq2activityLog2_checkpoint"
CHANNELS = (5, 3)
TINY = ActivityConfig(encoder=EncoderConfig(6, 8, CHANNELS), window_bp=16, hidden=4)
STORAGES = {"float32": "FloatStorage", "int64": "LongStorage"}


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def name(module, attribute):
    return b"c" + f"{module}\n{attribute}\n".encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def group(*items):
    return b"(" + b"".join(items) + b"t"


def mapping(items):
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def tensor(key, array, *, storage=None, size=None, stride=None, count=None):
    """The pickle of one tensor whose bytes are the member data/<key>."""
    storage = name("torch", storage or STORAGES[array.dtype.name])
    count = array.size if count is None else count
    pid = group(text("storage"), storage, text(str(key)), text("cuda:0"), number(count)) + b"Q"
    size = array.shape if size is None else size
    stride = [step // array.itemsize for step in array.strides] if stride is None else stride
    shape, steps = (group(*map(number, values)) for values in (size, stride))
    hooks = name("collections", "OrderedDict") + b")R"
    fields = group(pid, number(0), shape, steps, b"\x89", hooks)
    return name("torch._utils", "_rebuild_tensor_v2") + fields + b"R"


def loss_value(value):
    """A NumPy float64, as `loss` is written."""
    kind = name("numpy", "dtype") + group(text("f8"), b"\x89", b"\x88") + b"R"
    state = (number(3), text("<"), b"N", b"N", b"N", number(-1), number(-1), number(0))
    content = text(struct.pack("<d", value).decode("latin1"))
    content = name("_codecs", "encode") + group(content, text("latin1")) + b"R"
    scalar = name("numpy.core.multiarray", "scalar")
    return scalar + group(kind + group(*state) + b"b", content) + b"R"


def write(path, tensors, *, run_name=RUN_NAME, extra=None, pickled=None, members=()):
    """A file as the original's training writes it."""
    arrays = {key: np.asarray(value, order="C") for key, value in tensors.items()}
    if pickled is None:
        state = {key: tensor(i, array) for i, (key, array) in enumerate(arrays.items())}
        fields = {"epoch": number(5), "model_state_dict": mapping(state), "loss": loss_value(-0.5)}
        pickled = mapping(fields | (extra or {}))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{run_name}/data.pkl", b"\x80\x02" + pickled + b".")
        for i, array in enumerate(arrays.values()):
            archive.writestr(f"{run_name}/data/{i}", array.tobytes())
        for member, content in members:
            archive.writestr(f"{run_name}/{member}", content)
    return path


def norm_tensors(rng, prefix, size):
    return {
        f"{prefix}.weight": rng.normal(size=size),
        f"{prefix}.bias": rng.normal(size=size),
        f"{prefix}.running_mean": rng.normal(size=size),
        f"{prefix}.running_var": rng.uniform(0.5, 2.0, size=size),
        f"{prefix}.num_batches_tracked": np.array(7),
    }


def layer_tensors(rng, prefix, *shape):
    return {f"{prefix}.weight": rng.normal(size=shape), f"{prefix}.bias": rng.normal(size=shape[0])}


def activity_tensors(seed=0):
    """Random tensors of the network TINY under the published names."""
    rng = np.random.default_rng(seed)
    tensors = layer_tensors(rng, "encoder.stem_conv.0", 6, 4, 1, 8)
    inputs = 6
    for i, outputs in enumerate(CHANNELS):
        tower = "encoder.conv_tower"
        tensors |= layer_tensors(rng, f"{tower}.{2 * i}.0", outputs, inputs, 1, 3)
        tensors |= norm_tensors(rng, f"{tower}.{2 * i}.1", outputs)
        tensors |= layer_tensors(rng, f"{tower}.{2 * i + 1}.0", outputs, outputs, 1, 1)
        inputs = outputs
    for layer, inputs in ((1, 12), (5, 4)):
        tensors |= layer_tensors(rng, f"embedToAct.{layer}", 4, inputs)
        tensors |= norm_tensors(rng, f"embedToAct.{layer + 1}", 4)
    tensors |= layer_tensors(rng, "embedToAct.9", 1, 4)
    return {k: v.astype("i8" if v.dtype == np.int64 else "f4") for k, v in tensors.items()}


@pytest.fixture
def tensors():
    return activity_tensors()


@pytest.fixture
def weights(tmp_path, tensors):
    return write(tmp_path / "encoder.pt", tensors)


def leaves(tree):
    return {path: np.asarray(leaf) for path, leaf in checkpoint.flatten(tree._asdict()).items()}


# --- reading


def test_a_file_is_read_as_it_was_written(weights, tensors):
    file = torch_zip.read_torch_file(weights)
    assert (file.run_name, file.epoch, file.loss) == (RUN_NAME, 5, -0.5)
    assert list(file.tensors) == list(tensors)
    for key, value in tensors.items():
        np.testing.assert_array_equal(file.tensors[key], value, strict=True)


def test_strided_and_big_endian_tensors_are_read_as_they_are_meant(tmp_path):
    array = np.arange(6, dtype="f4").reshape(2, 3)
    turned = mapping({"x": tensor(0, array, size=(3, 2), stride=(1, 3))})
    path = write(tmp_path / "turned.pt", {"x": array}, pickled=turned)
    np.testing.assert_array_equal(torch_zip.read_torch_file(path).tensors["x"], array.T)
    big = write(
        tmp_path / "big.pt",
        {"x": array.byteswap()},
        pickled=mapping({"x": tensor(0, array)}),
        members=[("byteorder", b"big")],
    )
    np.testing.assert_array_equal(torch_zip.read_torch_file(big).tensors["x"], array)


NOT_CHECKPOINTS = {
    "empty": (b"", "empty"),
    "table": (b",Pred,actual,fold_idx\nENSG00000000003,0.1,0.2,fold_1\n", "begins with ',Pred"),
    "page": (b"\n<!DOCTYPE html>\n<html>...", "web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
    "old": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "torch before 1.6"),
    "half": (b"PK\x03\x04" + bytes(100), "cut short or damaged"),
}


@pytest.mark.parametrize("kind", NOT_CHECKPOINTS)
def test_what_is_no_checkpoint_is_named(kind, tmp_path):
    content, message = NOT_CHECKPOINTS[kind]
    path = tmp_path / f"{kind}.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        convert.convert(path, tmp_path / "model")
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_a_path_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.pt"):
        with pytest.raises(ValueError, match="cannot be read"):
            torch_zip.read_torch_file(path)


def test_zips_that_are_no_checkpoints_are_refused(tmp_path):
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ValueError, match="0 members named data.pkl"):
        torch_zip.read_torch_file(path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(weights, monkeypatch):
    monkeypatch.setattr(torch_zip, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="over the limit 1000"):
        torch_zip.read_torch_file(weights)


def test_a_damaged_member_is_named(weights, tensors):
    content = bytearray(weights.read_bytes())
    needle = tensors["embedToAct.5.weight"].tobytes()
    content[content.index(needle) + 3] ^= 1
    weights.write_bytes(content)
    member = list(tensors).index("embedToAct.5.weight")
    with pytest.raises(ValueError, match=f"member data/{member} is damaged .*CRC"):
        torch_zip.read_torch_file(weights)


def test_a_file_cut_anywhere_is_refused(weights):
    content = weights.read_bytes()
    for size in np.linspace(1, len(content) - 1, 40).astype(int):
        weights.write_bytes(content[:size])
        with pytest.raises(ValueError, match=str(weights)):
            torch_zip.read_torch_file(weights)


@functools.cache
def whole_file():
    buffer = io.BytesIO()
    write(buffer, activity_tensors())
    return buffer.getvalue()


@settings(max_examples=200)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path_factory, position, bit):
    content = bytearray(whole_file())
    content[int(position * len(content))] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped.pt"
    path.write_bytes(content)
    try:
        read = torch_zip.read_torch_file(path).tensors
    except ValueError:
        return
    for key, value in activity_tensors().items():
        np.testing.assert_array_equal(read[key], value, strict=True)


HOSTILE = {
    "os.system": name("os", "system") + group(text("touch {mark}")) + b"R",
    "builtins.eval": name("builtins", "eval") + group(text("open('{mark}', 'w')")) + b"R",
    "builtins.getattr": name("builtins", "getattr") + group(b"N", text("x")) + b"R",
    "numpy.fromfile": name("numpy", "fromfile") + group(text("{mark}")) + b"R",
    "torch.load": name("torch", "load") + group(text("{mark}")) + b"R",
    "collections.namedtuple": name("collections", "namedtuple") + b")R",
}


@pytest.mark.parametrize("called", HOSTILE)
def test_other_names_in_the_pickle_are_refused_and_not_run(called, tmp_path, tensors):
    mark = tmp_path / "mark"
    command = HOSTILE[called].replace(b"{mark}", str(mark).encode())
    # the length of the text stands in front of it
    command = command.replace(text("touch {mark}")[1:5], text(f"touch {mark}")[1:5])
    path = write(tmp_path / "hostile.pt", tensors, extra={"epoch": command})
    with pytest.raises(ValueError, match="nothing was run"):
        torch_zip.read_torch_file(path)
    assert not mark.exists()


def test_a_pickle_cannot_alter_the_stand_ins(tmp_path, tensors):
    function = name("torch._utils", "_rebuild_tensor_v2")
    change = function + group(b"N", mapping({"__defaults__": group(number(1))})) + b"b"
    path = write(tmp_path / "altering.pt", tensors, extra={"epoch": change})
    before = torch_zip._tensor.__defaults__
    torch_zip.read_torch_file(path)
    assert torch_zip._tensor.__defaults__ == before


BAD_TENSORS = {
    "beyond its storage": {"size": (3, 4)},
    "negative stride": {"stride": (-4, 1)},
    "short storage": {"count": 9},
    "storage of another type": {"storage": "LongStorage"},
    "unknown storage": {"storage": "BFloat16Storage"},
}


@pytest.mark.parametrize("fault", BAD_TENSORS)
def test_a_tensor_that_does_not_lie_in_its_storage_is_refused(fault, tmp_path):
    array = np.zeros((2, 4), np.float32)
    pickled = mapping({"x": tensor(0, array, **BAD_TENSORS[fault])})
    path = write(tmp_path / "bad.pt", {"x": array}, pickled=pickled)
    with pytest.raises(ValueError, match=r"data\.pkl is refused"):
        torch_zip.read_torch_file(path)


def test_a_missing_storage_is_named(tmp_path):
    pickled = mapping({"x": tensor(3, np.zeros(2, np.float32))})
    path = write(tmp_path / "bad.pt", {}, pickled=pickled)
    with pytest.raises(ValueError, match="data/3 is missing"):
        torch_zip.read_torch_file(path)


def test_weights_that_are_not_finite_are_refused(tmp_path, tensors):
    tensors["encoder.stem_conv.0.bias"][2] = np.nan
    path = write(tmp_path / "nan.pt", tensors)
    with pytest.raises(ValueError, match=r"encoder\.stem_conv\.0\.bias holds NaN"):
        torch_zip.read_torch_file(path)


def test_a_pickle_without_tensors_is_refused(tmp_path):
    for pickled in (mapping({"epoch": number(1)}), number(3), b"N", mapping({})):
        path = write(tmp_path / "other.pt", {}, pickled=pickled)
        with pytest.raises(ValueError, match="no dictionary of tensors"):
            torch_zip.read_torch_file(path)


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
