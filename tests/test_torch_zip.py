"""Reading PyTorch files: what is read, what is refused, and that nothing in them is run."""

import functools
import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_files import (
    RUN_NAME,
    activity_tensors,
    group,
    mapping,
    name,
    number,
    tensor,
    text,
    write,
)

from epinformer_jax import convert, torch_zip


@pytest.fixture
def tensors():
    return activity_tensors()


@pytest.fixture
def weights(tmp_path, tensors):
    return write(tmp_path / "encoder.pt", tensors)


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
