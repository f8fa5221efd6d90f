"""Files as the original's training writes them, assembled byte by byte.

So damaged and hostile ones can be made, and PyTorch is not needed.
"""

import struct
import zipfile

import numpy as np

from epinformer_jax.model.architecture import ActivityConfig, EncoderConfig

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
