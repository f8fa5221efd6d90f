"""Datasets written here without TensorFlow, read with TensorFlow by TFDS: the same values."""

import os

import numpy as np
import pytest
from tiny_inputs import gene_example, gene_manifest, window_example, window_manifest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
pytest.importorskip("tensorflow", reason="tensorflow is not installed; run `make parity`")

import tensorflow_datasets as tfds  # noqa: E402

from epinformer_jax.data import records, sequence  # noqa: E402

pytestmark = [
    pytest.mark.parity("tensorflow"),
    # TensorFlow and its generated protos warn on import and use; they are not ours to mend.
    pytest.mark.filterwarnings("ignore"),
]


def unpacked(name, value, row, manifest):
    """The value as an example holds it."""
    if name == "promoter":
        return sequence.unpack(value, manifest.promoter_bp)
    if name == "sequence":
        return sequence.unpack(value, int(row["length"]))
    if name == "element_sequence":
        return sequence.unpack_many(value, row["element_length"])
    return value.decode() if isinstance(value, bytes) else value


def assert_same(row, example, manifest):
    for name, value in row.items():
        if name == "length":
            continue
        mine, theirs = getattr(example, name), unpacked(name, value, row, manifest)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == theirs.dtype, name
            np.testing.assert_array_equal(mine, theirs, name)
        else:
            assert mine == theirs, name


def datasets(rng, labels):
    genes = [
        gene_example(rng, f"g{n}", split, lengths, labels=labels)
        for n, (split, lengths) in enumerate([("chr2", [7, 40]), ("chr10", []), ("chr2", [1])])
    ]
    windows = [window_example(rng, f"w{n}", "chr1", n, labels=labels) for n in (1, 40)]
    return {
        "genes": (gene_manifest(labels=labels), genes),
        "windows": (window_manifest(labels=labels), windows),
    }


@pytest.mark.parametrize("kind", ["genes", "windows"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("labels", [0, 2])
def test_tensorflow_reads_what_was_written(tmp_path, kind, compression, labels):
    manifest, examples = datasets(np.random.default_rng(4), labels)[kind]
    manifest = records.write_dataset(
        tmp_path / kind,
        kind,
        manifest,
        records.by_split(examples),
        compression=compression,
        shard_bytes=1,
    )
    builder = tfds.builder_from_directory(tmp_path / kind)
    assert set(builder.info.splits) == set(manifest.splits)
    assert builder.info.splits.total_num_examples == len(examples)
    by_key = {example.key: example for example in examples}
    rows = list(builder.as_dataset(split="all").as_numpy_iterator())
    assert len(rows) == len(examples)
    for row in rows:
        key = row["gene_id" if kind == "genes" else "name"].decode()
        assert_same(row, by_key.pop(key), manifest)


def test_split_expressions_work(tmp_path):
    manifest, genes = datasets(np.random.default_rng(4), 1)["genes"]
    records.write_dataset(tmp_path / "d", "genes", manifest, records.by_split(genes))
    builder = tfds.builder_from_directory(tmp_path / "d")
    rows = builder.as_dataset(split="chr10+chr2[1:]").as_numpy_iterator()
    assert [row["gene_id"] for row in rows] == [b"g1", b"g2"]
