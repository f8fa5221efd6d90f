"""Reads the weights out of a PyTorch checkpoint without PyTorch and without running what it says.

A checkpoint is a zip: `<run name>/data.pkl` describes a dictionary, `<run name>/data/<key>` holds
the bytes of one tensor. The pickle is read by an unpickler that knows the seven names of published
checkpoints (spec 1.16) and gives each an inert stand-in of its own; any other name is refused
before anything of it could be imported. Every member is checked against its CRC.
"""

import collections
import io
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAX_BYTES = 2**31  # a published checkpoint has 2-3 MB; a guard against zip bombs
_STATE = "model_state_dict"
_WANTED = "expected a PyTorch checkpoint (a zip)"
_BYTE_ORDERS = {b"little": "<", b"big": ">"}
# What a dictionary of tensors is made of in pickle protocol 2; published files use no others.
_OPCODES = re.compile(
    "PROTO|STOP|MARK|NONE|NEW(TRUE|FALSE)|BININT[12]?|LONG1|BINFLOAT|BINUNICODE|EMPTY_TUPLE"
    "|TUPLE[123]?|EMPTY_LIST|APPENDS?|EMPTY_DICT|SETITEMS?|(LONG_)?BIN(PUT|GET)|GLOBAL|REDUCE"
    "|BUILD|BINPERSID"
)
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OSError,
)
# What a damaged or foreign pickle makes the unpickler raise; nothing has been run by then.
_BROKEN_PICKLE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    RecursionError,
)


class TorchFile(NamedTuple):
    """What a checkpoint holds.

    Attributes:
      run_name: folder inside the zip, the original's long name of the run.
      tensors: name to array, float32 or int64, in the order of the file; read-only.
      epoch: index of the epoch, -1 where the file does not say.
      loss: the number the file gives as its loss, NaN where it does not.
    """

    run_name: str
    tensors: dict[str, np.ndarray]
    epoch: int
    loss: float


def read_torch_file(path: Path) -> TorchFile:
    """Reads `{epoch, model_state_dict, loss}`, or a bare dictionary of tensors.

    Raises:
      ValueError: the file is no checkpoint (and what it seems to be instead), is cut short or
        damaged, names something that published checkpoints do not, or holds a tensor that does
        not lie within its storage or is not finite.
    """
    try:
        with path.open("rb") as file:
            head = file.read(400)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    _refuse_other_files(path, head)
    run_name, members = _read_members(path)
    try:
        payload = _Unpickler(members).load()
    except _BROKEN_PICKLE as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path}: its data.pkl is refused: {reason}; nothing was run") from error
    fields = payload if isinstance(payload, dict) else {}
    state = fields.get(_STATE, fields)
    if not isinstance(state, dict) or not state or not _is_state(state):
        raise ValueError(
            f"{path}: holds no dictionary of tensors; expected epoch, {_STATE} and loss, "
            "as the original's training writes them"
        )
    for name, tensor in state.items():
        if not np.isfinite(tensor).all():
            raise ValueError(f"{path}: tensor {name} holds NaN or infinite values")
    epoch, loss = fields.get("epoch"), fields.get("loss")
    return TorchFile(
        run_name,
        dict(state),
        epoch if isinstance(epoch, int) else -1,
        float(loss) if isinstance(loss, float | int) else float("nan"),
    )


def _is_state(state: Mapping) -> bool:
    return all(isinstance(k, str) and isinstance(v, np.ndarray) for k, v in state.items())


def _refuse_other_files(path: Path, head: bytes) -> None:
    """Names what people most often have instead of a checkpoint."""
    if not head:
        raise ValueError(f"{path}: the file is empty; {_WANTED}; download it again")
    if head.startswith(b"PK"):
        return
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path}: is a web page; {_WANTED}; download the raw file itself")
    if text.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path}: is a Git LFS pointer; {_WANTED}; run `git lfs pull`")
    first_line = head.splitlines()[0][:60].decode("latin-1")
    if first_line.isascii() and first_line.isprintable():
        told = f"{path}: is a text that begins with {first_line!r}; {_WANTED}"
        if "," in first_line or "\t" in first_line:
            told += (
                "; the published K562 PE-Activity RNA files are tables of predictions, their "
                "weights were not released"
            )
        raise ValueError(told)
    raise ValueError(
        f"{path}: begins with bytes {head[:4].hex(' ')}; {_WANTED}; a file written by torch "
        "before 1.6 must be loaded and saved again with a newer one"
    )


def _read_members(path: Path) -> tuple[str, dict[str, bytes]]:
    """The run name, and every member by its name below that folder."""
    try:
        archive = zipfile.ZipFile(path)
    except _BROKEN_ZIP as error:
        size = path.stat().st_size
        raise ValueError(
            f"{path}: is cut short or damaged at {size} bytes ({error}); download it again"
        ) from error
    with archive:
        infos = archive.infolist()
        total = sum(info.file_size for info in infos)
        if total > MAX_BYTES:
            raise ValueError(f"{path}: would unpack to {total} bytes, over the limit {MAX_BYTES}")
        pickles = [info.filename for info in infos if info.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(
                f"{path}: is a zip with {len(pickles)} members named data.pkl; {_WANTED}"
            )
        folder = pickles[0].removesuffix("data.pkl")
        members = {}
        for info in infos:
            name = info.filename.removeprefix(folder)
            try:
                members[name] = archive.read(info)
            except _BROKEN_ZIP as error:
                raise ValueError(
                    f"{path}: member {name} is damaged ({error}); download it again"
                ) from error
    return folder.rstrip("/").rpartition("/")[2], members


class _Storage(NamedTuple):
    """Stands for torch.FloatStorage and torch.LongStorage: the number type of a member."""

    number: str


class _NumberType:
    """Stands for numpy.dtype: a number's type, its byte order told afterwards."""

    def __init__(self, code: str, *_: Any):
        if code not in ("f8", "f4", "i8"):
            raise ValueError(f"a number of type {code!r} is not expected")
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "="):
            raise ValueError(f"byte order {state[1]!r} is not known")
        self.order = state[1]


def _number(kind: _NumberType, content: bytes) -> float:
    """Stands for numpy's scalar: the value that `loss` has."""
    return float(np.frombuffer(content, kind.order + kind.code)[0])


def _latin1(text: str, encoding: str) -> bytes:
    """Stands for _codecs.encode: how old pickles write bytes."""
    if encoding != "latin1":
        raise ValueError(f"encoding {encoding!r} is not latin1")
    return text.encode("latin1")


def _tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """Stands for torch's rebuilding of a tensor: a view of its storage, within bounds."""
    steps = [step * storage.itemsize for step in stride]
    return np.ndarray(size, storage.dtype, storage, offset * storage.itemsize, steps)


def _check_opcodes(content: bytes) -> None:
    """Refuses a pickle that is cut short or uses more than a dictionary of tensors needs."""
    for opcode, argument, _ in pickletools.genops(content):
        if not _OPCODES.fullmatch(opcode.name):
            raise ValueError(f"it uses {opcode.name}, which published checkpoints do not")
        if opcode.name == "LONG_BINPUT" and argument > len(content):
            raise ValueError(f"it numbers an object {argument} in {len(content)} bytes")


class _Unpickler(pickle.Unpickler):
    """Turns data.pkl into dictionaries and read-only views of the members."""

    def __init__(self, members: Mapping[str, bytes]):
        content = members["data.pkl"]
        _check_opcodes(content)
        super().__init__(io.BytesIO(content))
        self._members = members
        stated = members.get("byteorder", b"little").strip()
        if stated not in _BYTE_ORDERS:
            raise ValueError(f"byteorder {stated[:20]!r} is neither little nor big")
        self._byte_order = _BYTE_ORDERS[stated]

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for one of the seven names, fresh, so that a pickle cannot alter ours."""
        stand_ins = {
            "collections.OrderedDict": collections.OrderedDict,
            "torch._utils._rebuild_tensor_v2": lambda *fields: _tensor(*fields),
            "torch.FloatStorage": _Storage("f4"),
            "torch.LongStorage": _Storage("i8"),
            "numpy.core.multiarray.scalar": lambda *fields: _number(*fields),
            "numpy.dtype": lambda *fields: _NumberType(*fields),
            "_codecs.encode": lambda *fields: _latin1(*fields),
        }
        if f"{module}.{name}" not in stand_ins:
            raise ValueError(f"it names {module}.{name}, which published checkpoints do not")
        return stand_ins[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The content of one storage as a flat array."""
        tag, storage, key, _, count = pid
        if tag != "storage" or not isinstance(storage, _Storage):
            raise ValueError("a tensor refers to something that is no storage")
        content = self._members.get(f"data/{key}")
        if content is None:
            raise ValueError(f"the storage data/{key} is missing from the zip")
        number = np.dtype(self._byte_order + storage.number)
        if len(content) != count * number.itemsize:
            expected = count * number.itemsize
            raise ValueError(f"data/{key} has {len(content)} bytes, expected {expected}")
        return np.frombuffer(content, number)
