"""Datasets on disk: read back as written, the same bytes each time, no damage unseen."""

import dataclasses
import hashlib
import json
import struct

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_inputs import gene_example, gene_manifest, window_example, window_manifest

from epinformer_jax.data import records, records_codec, tfrecord

LENGTHS = st.lists(st.integers(1, 40), max_size=6)


@pytest.fixture
def genes():
    rng = np.random.default_rng(1)
    lengths = {"g1": [7, 40, 3], "g2": [], "g3": [1], "g4": [8, 8], "g5": [39]}
    splits = ["chr10", "chr2", "chr2", "chrX", "chr2"]
    return [
        gene_example(rng, name, split, sizes)
        for (name, sizes), split in zip(lengths.items(), splits, strict=True)
    ]


@pytest.fixture
def dataset(tmp_path, genes):
    folder = tmp_path / "genes"
    records.write_dataset(folder, "genes", gene_manifest(), records.by_split(genes))
    return folder


def hashes(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("shard_bytes", [1, 10**6])
def test_genes_come_back_as_they_were(tmp_path, genes, compression, shard_bytes):
    written = records.write_dataset(
        tmp_path / "genes",
        "genes",
        gene_manifest(),
        records.by_split(genes),
        compression=compression,
        shard_bytes=shard_bytes,
    )
    manifest, found = records.read_dataset(tmp_path / "genes")
    assert manifest == written
    assert list(manifest.splits) == ["chr2", "chr10", "chrX"]
    assert found == [genes[1], genes[2], genes[4], genes[0], genes[3]]
    assert manifest.counts == {"links": 3, "genes": 5, "elements": 7}
    assert len(manifest.splits["chr2"]) == (3 if shard_bytes == 1 else 1)
    assert manifest.num_records("chr2") == 3


def test_windows_come_back_as_they_were(tmp_path):
    rng = np.random.default_rng(2)
    windows = [window_example(rng, f"w{n}", "chr1", n) for n in (1, 2, 39, 40)]
    text_only = dataclasses.replace(windows[0], name="text", chrom="", start=-1, end=-1)
    with_nan = dataclasses.replace(
        windows[1], name="nan", labels=np.array([np.nan, np.inf], np.float32)
    )
    windows += [text_only, with_nan]
    records.write_dataset(tmp_path / "w", "windows", window_manifest(), {"chr1": iter(windows)})
    manifest, found = records.read_dataset(tmp_path / "w")
    assert found == windows
    assert manifest.counts == {"windows": 6}


@given(LENGTHS, st.integers(0, 3), st.integers(0, 2), st.sampled_from([None, "zlib"]))
@settings(max_examples=60)
def test_decoding_undoes_encoding(lengths, signals, labels, compression):
    manifest = gene_manifest(signals=signals, labels=labels)
    manifest = dataclasses.replace(manifest, compression=compression)
    rng = np.random.default_rng(len(lengths))
    example = gene_example(rng, "g", "chr1", lengths, signals=signals, labels=labels)
    data = records_codec.encode(example, manifest)
    assert data == records_codec.encode(example, manifest)
    decoded = records_codec.decode(data, manifest, "here")
    assert decoded == example
    for field in dataclasses.fields(example):
        mine, theirs = getattr(example, field.name), getattr(decoded, field.name)
        assert type(mine) is type(theirs)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == theirs.dtype


def test_equality_sees_every_field(genes):
    gene = genes[0]
    assert gene == dataclasses.replace(gene, promoter=gene.promoter.copy())
    for field in dataclasses.fields(gene):
        value = getattr(gene, field.name)
        other = value + "x" if isinstance(value, str) else value + 1
        assert gene != dataclasses.replace(gene, **{field.name: other}), field.name


def test_two_writings_give_the_same_bytes(tmp_path, genes):
    for name, compression in (("a", None), ("b", None), ("c", "zlib"), ("d", "zlib")):
        records.write_dataset(
            tmp_path / name,
            "genes",
            gene_manifest(),
            records.by_split(genes),
            compression=compression,
        )
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert hashes(tmp_path / "c") == hashes(tmp_path / "d") != hashes(tmp_path / "a")


def test_the_fingerprint_follows_the_content(tmp_path, genes):
    first = records.write_dataset(tmp_path / "a", "g", gene_manifest(), records.by_split(genes))
    genes[0] = dataclasses.replace(genes[0], tss=genes[0].tss + 1)
    second = records.write_dataset(tmp_path / "b", "g", gene_manifest(), records.by_split(genes))
    assert first.fingerprint != second.fingerprint
    assert first.splits["chr2"] == second.splits["chr2"]


def test_splits_are_read_in_the_order_asked_for(dataset, genes):
    _, found = records.read_dataset(dataset, ["chrX", "chr10"])
    assert found == [genes[3], genes[0]]


@pytest.mark.parametrize(
    ("splits", "message"),
    [(["chr3"], "no split 'chr3'; did you mean"), (["chrX", "chrX"], "more than once")],
)
def test_splits_that_are_not_there_are_refused(dataset, splits, message):
    with pytest.raises(ValueError, match=message):
        records.read_dataset(dataset, splits)


def test_the_container_is_that_of_tensorflow():
    data = b"some bytes"

    def masked(content):
        crc = google_crc32c.value(content)
        return (((crc >> 15) | ((crc & 0x7FFF) << 17)) + 0xA282EAD8) % 2**32

    length = struct.pack("<Q", len(data))
    expected = length + struct.pack("<I", masked(length)) + data + struct.pack("<I", masked(data))
    assert tfrecord.frame(data) == expected
    # What TensorFlow's own tf.io.TFRecordWriter writes for b"abc".
    assert tfrecord.frame(b"abc").hex() == "0300000000000000" + "b099490e" + "616263" + "6e57f121"


@given(st.lists(st.binary(max_size=40), max_size=5), st.data())
@settings(max_examples=100)
def test_any_flipped_byte_is_found_in_its_record(contents, data):
    frames = [tfrecord.frame(content) for content in contents]
    whole = b"".join(frames)
    assert [item for *_, item in tfrecord.split_records(whole, "f")] == contents
    if not whole:
        return
    position = data.draw(st.integers(0, len(whole) - 1))
    change = data.draw(st.integers(1, 255))
    damaged = bytearray(whole)
    damaged[position] ^= change
    ends = np.cumsum([len(frame) for frame in frames])
    record = int(np.searchsorted(ends, position, side="right"))
    start = int(ends[record] - len(frames[record]))
    with pytest.raises(ValueError, match=rf"^f: record {record} at byte {start}: "):
        list(tfrecord.split_records(bytes(damaged), "f"))


def test_any_cut_is_found_or_ends_a_record():
    frames = [tfrecord.frame(content) for content in (b"one", b"", b"three" * 5)]
    whole = b"".join(frames)
    whole_records = {0, len(frames[0]), len(frames[0] + frames[1]), len(whole)}
    for length in range(len(whole) + 1):
        if length in whole_records:
            list(tfrecord.split_records(whole[:length], "f"))
        else:
            with pytest.raises(ValueError, match="cut off"):
                list(tfrecord.split_records(whole[:length], "f"))


def test_every_flipped_byte_of_a_shard_is_found(tmp_path):
    rng = np.random.default_rng(3)
    examples = {"chr1": [gene_example(rng, "g1", "chr1", [3]), gene_example(rng, "g2", "chr1", [])]}
    manifest = records.write_dataset(tmp_path / "d", "genes", gene_manifest(), examples)
    shard = tmp_path / "d" / manifest.splits["chr1"][0]["file"]
    content = shard.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        shard.write_bytes(bytes(damaged))
        with pytest.raises(
            ValueError, match=rf"{shard.name}: record [01] at byte \d+: damaged|cut off"
        ):
            records.read_dataset(tmp_path / "d")


def only_shard(folder, split):
    (shard,) = folder.glob(f"genes-{split}.*")
    return shard


def test_a_shard_that_lost_its_last_record_is_found(dataset):
    shard = only_shard(dataset, "chr2")
    content = shard.read_bytes()
    *_, (_, offset, _) = tfrecord.split_records(content, "f")
    shard.write_bytes(content[:offset])
    with pytest.raises(ValueError, match="2 records, the manifest says 3"):
        records.read_dataset(dataset)


def test_a_missing_shard_is_named(dataset):
    shard = only_shard(dataset, "chr10")
    shard.unlink()
    with pytest.raises(ValueError, match=f"{shard.name}: missing"):
        records.read_dataset(dataset)
    records.read_dataset(dataset, ["chr2"])


def test_a_shard_of_another_split_is_found(dataset):
    only_shard(dataset, "chr10").write_bytes(only_shard(dataset, "chrX").read_bytes())
    with pytest.raises(ValueError, match="belongs to split 'chrX', not 'chr10'"):
        records.read_dataset(dataset)


def test_a_shard_of_another_build_is_found(dataset, genes, tmp_path):
    genes[0] = dataclasses.replace(genes[0], tss=1)
    records.write_dataset(tmp_path / "other", "genes", gene_manifest(), records.by_split(genes))
    only_shard(dataset, "chr10").write_bytes(only_shard(tmp_path / "other", "chr10").read_bytes())
    with pytest.raises(ValueError, match="sha256 differs"):
        records.read_dataset(dataset)


def test_an_intact_record_of_another_kind_is_named(dataset):
    shard = only_shard(dataset, "chrX")
    shard.write_bytes(tfrecord.frame(b"\xff\xff not a proto"))
    with pytest.raises(ValueError, match=r"record 0 at byte 0: not a record of this dataset"):
        records.read_dataset(dataset)


def spoil(manifest, **changes):
    return json.dumps(json.loads(manifest) | changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "not a dataset manifest"),
        (lambda text: "[]", "not a dataset manifest"),
        (lambda text: spoil(text, format_version=99), "format 99"),
        (lambda text: spoil(text, extra=1), r"\['extra'\] are unknown or missing"),
        (lambda text: spoil(text, kind="cells"), "kind='cells'"),
        (lambda text: spoil(text, splits={"chr1": [{"file": 3}]}), "not lists of shards"),
        (lambda text: spoil(text, compression="lz4"), "compression='lz4'"),
    ],
)
def test_a_manifest_that_is_none_is_refused(dataset, change, message):
    path = dataset / "manifest.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        records.read_dataset(dataset)


def test_a_folder_that_is_no_dataset_says_where_one_is(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"no manifest\.json; expected a dataset made by"):
        records.read_dataset(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=rf"use {dataset}"):
        records.read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"promoter": np.zeros(49, np.uint8)},
            r"g1: promoter is uint8\[49\], expected uint8\[50\]",
        ),
        (
            {"element_sequence": np.zeros(49, np.uint8)},
            r"element_sequence is .* expected uint8\[50\]",
        ),
        ({"labels": np.zeros(2, np.float32)}, r"labels is float32\[2\], expected float32\[1\]"),
        ({"link_signals": np.zeros((3, 3), np.float32)}, r"link_signals .* float32\[3, 2\]"),
        ({"gene_signals": np.zeros(2, np.float32)}, "gene_signals"),
        (
            {
                "element_length": np.array([7, 41, 3], np.int32),
                "element_sequence": np.zeros(51, np.uint8),
            },
            r"element_length outside 1\.\.40",
        ),
        ({"split": "chr9"}, "its split is 'chr9', not 'chr10'"),
        ({"gene_id": "g2"}, "g2: stands twice"),
    ],
)
def test_examples_that_do_not_fit_are_refused_and_leave_nothing(tmp_path, genes, change, message):
    groups = records.by_split(genes)
    groups["chr10"] = [dataclasses.replace(genes[0], **change)]
    with pytest.raises(ValueError, match=message):
        records.write_dataset(tmp_path / "d", "genes", gene_manifest(), groups)
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no example to write"):
        records.write_dataset(tmp_path / "d", "genes", gene_manifest(), {"chr1": []})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", ["all", "chr1-2", "GL000194.1", ""])
def test_split_names_that_tfds_cannot_use_are_refused(tmp_path, split):
    example = gene_example(np.random.default_rng(0), "g", split, [2])
    with pytest.raises(ValueError, match="cannot be the name of a split"):
        records.write_dataset(tmp_path / "d", "genes", gene_manifest(), {split: [example]})


def test_empty_splits_are_left_out(tmp_path, genes):
    groups = {"chr1": [], **records.by_split(genes)}
    manifest = records.write_dataset(tmp_path / "d", "genes", gene_manifest(), groups)
    assert "chr1" not in manifest.splits


def test_an_existing_directory_is_kept_unless_told_otherwise(dataset, genes):
    before = hashes(dataset)
    groups = records.by_split(genes[:2])
    with pytest.raises(ValueError, match="already exists"):
        records.write_dataset(dataset, "genes", gene_manifest(), groups)
    assert hashes(dataset) == before
    records.write_dataset(dataset, "genes", gene_manifest(), groups, overwrite=True)
    assert records.read_dataset(dataset)[1] == [genes[1], genes[0]]
    assert [path.name for path in dataset.parent.iterdir()] == ["genes"]


def test_overwriting_spares_what_is_no_dataset(tmp_path, genes):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("dear to me")
    with pytest.raises(ValueError, match="not an output"):
        records.write_dataset(
            tmp_path / "home", "genes", gene_manifest(), records.by_split(genes), overwrite=True
        )
    assert (tmp_path / "home" / "thesis.txt").read_text() == "dear to me"


def test_a_failing_overwrite_keeps_the_old_dataset(dataset, genes):
    before = hashes(dataset)

    def failing():
        yield genes[0]
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        records.write_dataset(
            dataset, "genes", gene_manifest(), {"chr10": failing()}, overwrite=True
        )
    assert hashes(dataset) == before
    assert [path.name for path in dataset.parent.iterdir()] == ["genes"]


def test_what_a_killed_run_left_is_cleared(dataset, genes):
    leftover = dataset.with_name(".genes.partial")
    leftover.mkdir()
    (leftover / "half").write_text("x")
    dataset.rename(dataset.with_name(".genes.previous"))  # killed between the two renames
    with pytest.raises(ValueError, match="already exists"):
        records.write_dataset(dataset, "genes", gene_manifest(), records.by_split(genes))
    assert len(records.read_dataset(dataset)[1]) == 5
    records.write_dataset(
        dataset, "genes", gene_manifest(), records.by_split(genes), overwrite=True
    )
    assert [path.name for path in dataset.parent.iterdir()] == ["genes"]


def test_buckets_are_not_written_to(genes):
    with pytest.raises(ValueError, match="copy it to the bucket"):
        records.write_dataset("gs://b/d", "genes", gene_manifest(), records.by_split(genes))
