"""Codes, packing and strands, against plain string code."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epinformer_jax.data import sequence

DNA = st.text(alphabet="ACGTNacgtnRYKMSWBDHVU", max_size=300)
LENGTHS = st.lists(st.integers(0, 12), max_size=12)


def as_upper_acgtn(text):
    return "".join(letter if letter in "ACGT" else "N" for letter in text.upper())


@given(DNA)
def test_decoding_gives_the_text_back_with_other_letters_as_n(text):
    assert sequence.decode(sequence.encode(text)) == as_upper_acgtn(text)
    np.testing.assert_array_equal(sequence.encode(text.encode()), sequence.encode(text))


def test_codes_are_one_bit_for_each_channel():
    assert sequence.encode("ACGTNx").tolist() == [1, 2, 4, 8, 0, 0]


@pytest.mark.parametrize("text", ["ACG-T", "ACG T", "ACG1T", "ACG\nT", "ACG*T", "ACGéT", "ACG中T"])
def test_what_is_not_a_letter_is_named_with_its_position(text):
    with pytest.raises(ValueError, match="position 3") as error:
        sequence.encode(text)
    assert repr(text[3]) in str(error.value)


@given(DNA)
def test_reverse_complement_is_that_of_the_text(text):
    pairs = dict(zip("ACGTN", "TGCAN", strict=True))
    expected = "".join(pairs[letter] for letter in reversed(as_upper_acgtn(text)))
    codes = sequence.encode(text)
    assert sequence.decode(sequence.reverse_complement(codes)) == expected
    np.testing.assert_array_equal(
        sequence.reverse_complement(sequence.reverse_complement(codes)), codes
    )


def test_reverse_complement_takes_rows_on_their_own():
    codes = np.stack([sequence.encode("AACG"), sequence.encode("TTNC")])
    rows = [sequence.decode(row) for row in sequence.reverse_complement(codes)]
    assert rows == ["CGTT", "GNAA"]


@given(DNA)
def test_unpacking_undoes_packing(text):
    codes = sequence.encode(text)
    packed = sequence.pack(codes)
    assert packed.size == (len(text) + 1) // 2
    np.testing.assert_array_equal(sequence.unpack(packed, len(text)), codes)


def test_the_first_base_is_in_the_low_nibble():
    assert sequence.pack(sequence.encode("ACG")).tolist() == [0x21, 0x04]


def test_packing_does_not_change_its_argument():
    codes = sequence.encode("ACGT")
    sequence.pack(codes)
    assert codes.tolist() == [1, 2, 4, 8]


@given(LENGTHS, st.integers(0, 2**32 - 1))
def test_many_sequences_pack_as_each_one_alone(lengths, seed):
    rng = np.random.default_rng(seed)
    parts = [(1 << rng.integers(0, 4, length)).astype(np.uint8) for length in lengths]
    codes = np.concatenate([np.empty(0, np.uint8), *parts])
    packed = sequence.pack_many(codes, np.array(lengths, np.int64))
    alone = np.concatenate([np.empty(0, np.uint8), *map(sequence.pack, parts)])
    np.testing.assert_array_equal(packed, alone)
    np.testing.assert_array_equal(sequence.unpack_many(packed, np.array(lengths, np.int64)), codes)


def test_sizes_that_do_not_belong_together_are_refused():
    packed = sequence.pack(sequence.encode("ACGT"))
    for length in (2, 5, -1):
        with pytest.raises(ValueError, match="2 packed bytes"):
            sequence.unpack(packed, length)
    with pytest.raises(ValueError, match="2 packed bytes"):
        sequence.unpack_many(packed, np.array([3, 1, 1]))
    with pytest.raises(ValueError, match="add up to 3"):
        sequence.pack_many(sequence.encode("ACGT"), np.array([3]))
    with pytest.raises(ValueError, match="four bits"):
        sequence.pack(np.array([16], np.uint8))


def test_one_hot_has_a_channel_a_base_and_a_share_for_unknown_ones():
    codes = np.stack([sequence.encode("ACGTN"), sequence.encode("TTTTA")])
    expected = np.zeros((2, 5, 4), np.float32)
    for row, text in enumerate(("ACGTN", "TTTTA")):
        for position, letter in enumerate(text):
            expected[row, position] = 0.25 if letter == "N" else np.eye(4)["ACGT".index(letter)]
    found = sequence.one_hot(codes)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    expected[0, 4] = 0
    np.testing.assert_array_equal(sequence.one_hot(codes, unknown=0), expected)


@pytest.mark.parametrize(
    "use",
    [sequence.one_hot, sequence.decode, sequence.reverse_complement],
    ids=lambda f: f.__name__,
)
def test_values_that_are_no_codes_are_refused(use):
    with pytest.raises(ValueError, match="3 is not a base code"):
        use(np.array([1, 3, 8], np.uint8))
