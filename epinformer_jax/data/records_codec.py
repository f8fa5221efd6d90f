"""Examples as tf.train.Example protos, and the TFDS features that describe them.

One table names every field once; encoding, decoding and the TFDS description all follow it.
Sequences are packed two bases a byte (`sequence.pack`), each element starting on a byte of its own,
optionally through zlib.
"""

import dataclasses
import functools
import zlib

import numpy as np
from tensorflow_datasets.proto import tf_example_pb2

from epinformer_jax.data import sequence
from epinformer_jax.data.records_examples import Example, GeneExample, WindowExample
from epinformer_jax.data.records_manifest import Manifest


@dataclasses.dataclass(frozen=True)
class Field:
    """One value of a record. `form`: text, integer, integers, floats or bases.

    `width` names the trailing dimension of floats: P link signals, G gene signals or Y labels;
    those of the gene's elements (`per_element`) have a leading one too. `lengths` names the field
    that holds the lengths of the sequences in it.
    """

    name: str
    form: str
    doc: str
    dtype: type = np.int64
    width: str = ""
    per_element: bool = False
    lengths: str = ""


_GENE_FIELDS = (
    Field("gene_id", "text", "unique identifier of the gene"),
    Field("gene_name", "text", "symbol, may be empty"),
    Field("chrom", "text", "contig of the FASTA"),
    Field("split", "text", "chromosome the contig counts as"),
    Field(
        "tss",
        "integer",
        "position p of the TSS: the promoter is [p - promoter_bp/2, p + promoter_bp/2)",
    ),
    Field("strand", "text", "+ or -; the promoter is on the plus strand either way"),
    Field("promoter", "bases", "two bases a byte, low nibble first: A=1 C=2 G=4 T=8 N=0"),
    Field("element_start", "integers", "0-based start, uncropped", per_element=True),
    Field("element_end", "integers", "end (not included), uncropped", per_element=True),
    Field("element_length", "integers", "bases after cropping", dtype=np.int32, per_element=True),
    Field(
        "element_sequence", "bases", "each element from a byte of its own", lengths="element_length"
    ),
    Field("distance_bp", "integers", "floor midpoint minus tss, signed", per_element=True),
    Field(
        "link_signals", "floats", "link_signal_names of the manifest", width="P", per_element=True
    ),
    Field("gene_signals", "floats", "gene_signal_names of the manifest", width="G"),
    Field("labels", "floats", "label_names of the manifest", width="Y"),
)
_WINDOW_FIELDS = (
    Field("name", "text", "unique name of the window"),
    Field("chrom", "text", "contig of the FASTA; empty when the window was given as text"),
    Field("split", "text", "chromosome the contig counts as"),
    Field("start", "integer", "0-based start; -1 when the window was given as text"),
    Field("end", "integer", "end (not included); -1 when the window was given as text"),
    Field("length", "integer", "bases of the sequence"),
    Field(
        "sequence",
        "bases",
        "two bases a byte, low nibble first: A=1 C=2 G=4 T=8 N=0",
        lengths="length",
    ),
    Field("labels", "floats", "label_names of the manifest", width="Y"),
)
FIELDS = {"genes": _GENE_FIELDS, "windows": _WINDOW_FIELDS}


def features(manifest: Manifest) -> dict:
    """The TFDS features of this dataset; packed bases stay packed for readers of TFDS."""
    return {field.name: _feature(field, manifest) for field in FIELDS[manifest.kind]}


def encode(example: Example, manifest: Manifest) -> bytes:
    """Serialises an example; the same example gives the same bytes.

    Raises:
      ValueError: its arrays do not fit each other or the manifest; names the example and the field.
    """
    check(example, manifest)
    proto = tf_example_pb2.Example()
    for field in FIELDS[manifest.kind]:
        _FORMS[field.form].put(proto.features.feature[field.name], field, example, manifest)
    return proto.SerializeToString(deterministic=True)


def decode(data: bytes, manifest: Manifest, place: str) -> Example:
    """Undoes `encode`; `place` names the record in errors.

    Raises:
      ValueError: not such a record, or one that contradicts the manifest.
    """
    try:
        found = tf_example_pb2.Example.FromString(data).features.feature
        values: dict = {}
        for field in FIELDS[manifest.kind]:
            if field.name not in found:
                raise ValueError(f"field {field.name!r} is missing")
            values[field.name] = _FORMS[field.form].get(found[field.name], field, values, manifest)
        if manifest.kind == "windows":
            del values["length"]
        example = manifest.example_type(**values)
        check(example, manifest)
    except (
        Exception
    ) as error:  # a protobuf or zlib error means the same to the reader: not our record
        raise ValueError(
            f"{place}: not a record of this dataset ({error}); build the dataset again"
        ) from error
    return example


def check(example: Example, manifest: Manifest) -> None:
    """Checks that an example agrees with itself and with the manifest.

    Raises:
      ValueError: an array has another shape or dtype; names the example and the field.
    """
    if not isinstance(example, manifest.example_type):
        raise ValueError(f"a {type(example).__name__} in a dataset of {manifest.kind}")
    expected = _expected_arrays(example, manifest)
    for name, (shape, dtype) in expected.items():
        array = getattr(example, name)
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(
                f"{example.key}: {name} is {array.dtype}{list(array.shape)}, "
                f"expected {np.dtype(dtype)}{list(shape)}"
            )
    if isinstance(example, GeneExample):
        lengths = example.element_length
        if lengths.size and (lengths.min() < 1 or lengths.max() > manifest.window_bp):
            raise ValueError(
                f"{example.key}: element_length outside 1..{manifest.window_bp} (window_bp)"
            )
    elif not 0 < example.sequence.size <= manifest.window_bp:
        raise ValueError(
            f"{example.key}: {example.sequence.size} bases, outside 1..{manifest.window_bp}"
        )


def _expected_arrays(
    example: Example, manifest: Manifest
) -> dict[str, tuple[tuple[int, ...], type]]:
    labels = ((len(manifest.label_names),), np.float32)
    if isinstance(example, WindowExample):
        return {"sequence": ((example.sequence.size,), np.uint8), "labels": labels}
    n = example.distance_bp.size
    return {
        "promoter": ((manifest.promoter_bp,), np.uint8),
        "element_start": ((n,), np.int64),
        "element_end": ((n,), np.int64),
        "element_length": ((n,), np.int32),
        "element_sequence": ((int(example.element_length.sum()),), np.uint8),
        "distance_bp": ((n,), np.int64),
        "link_signals": ((n, len(manifest.link_signal_names)), np.float32),
        "gene_signals": ((len(manifest.gene_signal_names),), np.float32),
        "labels": labels,
    }


def _width(field: Field, manifest: Manifest) -> int:
    names = {
        "P": manifest.link_signal_names,
        "G": manifest.gene_signal_names,
        "Y": manifest.label_names,
    }
    return len(names[field.width])


@dataclasses.dataclass(frozen=True)
class _Form:
    put: object
    get: object


def _put_text(feature, field, example, manifest):
    feature.bytes_list.value.append(getattr(example, field.name).encode())


def _get_text(feature, field, values, manifest):
    (value,) = feature.bytes_list.value
    return value.decode()


def _put_integer(feature, field, example, manifest):
    value = example.sequence.size if field.name == "length" else getattr(example, field.name)
    feature.int64_list.value.append(int(value))


def _get_integer(feature, field, values, manifest):
    (value,) = feature.int64_list.value
    return value


def _put_integers(feature, field, example, manifest):
    feature.int64_list.value.extend(getattr(example, field.name).tolist())


def _get_integers(feature, field, values, manifest):
    return np.array(feature.int64_list.value, field.dtype)


def _put_floats(feature, field, example, manifest):
    feature.float_list.value.extend(getattr(example, field.name).ravel().tolist())


def _get_floats(feature, field, values, manifest):
    array = np.array(feature.float_list.value, np.float32)
    if not field.per_element:
        return array
    return array.reshape(values["distance_bp"].size, _width(field, manifest))


def _put_bases(feature, field, example, manifest):
    codes = getattr(example, field.name)
    lengths = (
        example.element_length if field.lengths == "element_length" else np.array([codes.size])
    )
    raw = sequence.pack_many(codes, lengths).tobytes()
    feature.bytes_list.value.append(zlib.compress(raw) if manifest.compression == "zlib" else raw)


def _get_bases(feature, field, values, manifest):
    (raw,) = feature.bytes_list.value
    if manifest.compression == "zlib":
        raw = zlib.decompress(raw)
    lengths = np.atleast_1d(values[field.lengths] if field.lengths else manifest.promoter_bp)
    return sequence.unpack_many(np.frombuffer(raw, np.uint8), lengths)


_FORMS = {
    "text": _Form(_put_text, _get_text),
    "integer": _Form(_put_integer, _get_integer),
    "integers": _Form(_put_integers, _get_integers),
    "floats": _Form(_put_floats, _get_floats),
    "bases": _Form(_put_bases, _get_bases),
}


def _feature(field: Field, manifest: Manifest):
    import tensorflow_datasets as tfds

    if field.form == "text":
        return tfds.features.Text(doc=field.doc)
    if field.form == "integer":
        return tfds.features.Scalar(dtype=np.int64, doc=field.doc)
    tensor = functools.partial(tfds.features.Tensor, doc=field.doc)
    if field.form == "integers":
        return tensor(shape=(None,), dtype=field.dtype)
    if field.form == "floats":
        shape = (None,) * field.per_element + (_width(field, manifest),)
        return tensor(shape=shape, dtype=np.float32)
    length = None if field.lengths else (manifest.promoter_bp + 1) // 2
    return tensor(shape=(length,), dtype=np.uint8, encoding=manifest.compression or "bytes")
