"""DNA as nibble codes: text, codes, two bases a byte, one-hot.

A base is one bit of a nibble, in the order of the one-hot channels: A=1, C=2, G=4, T=8. An unknown
base (N and the other IUPAC letters) is 0. Two bases share a byte, the first one in the low nibble.
Letters in shapes: L bases, A = 4 channels (A, C, G, T).
"""

import numpy as np
from jaxtyping import Float32, Int, UInt8

ALPHABET = "ACGT"
UNKNOWN = 0

_NOT_A_LETTER = 255
_CODE_OF_BYTE = np.full(256, _NOT_A_LETTER, np.uint8)
for _first, _last in ("AZ", "az"):
    _CODE_OF_BYTE[ord(_first) : ord(_last) + 1] = UNKNOWN
for _channel, _letter in enumerate(ALPHABET):
    _CODE_OF_BYTE[[ord(_letter), ord(_letter.lower())]] = 1 << _channel

_NOT_A_CODE = 255
_LETTER_OF_CODE = np.full(256, _NOT_A_CODE, np.uint8)
_COMPLEMENT_OF_CODE = np.full(256, _NOT_A_CODE, np.uint8)
_LETTER_OF_CODE[UNKNOWN] = ord("N")
_COMPLEMENT_OF_CODE[UNKNOWN] = UNKNOWN
for _channel, _letter in enumerate(ALPHABET):
    _LETTER_OF_CODE[1 << _channel] = ord(_letter)
    _COMPLEMENT_OF_CODE[1 << _channel] = 1 << (3 - _channel)


class NotALetter(ValueError):
    """A character that is no letter of a sequence, and its position in it (0-based)."""

    def __init__(self, character: str, position: int):
        self.character, self.position = character, position
        super().__init__(
            f"character {character!r} at position {position} (0-based) is not a DNA letter; "
            "expected A, C, G, T, N or another IUPAC letter"
        )


def encode(text: str | bytes) -> UInt8[np.ndarray, " L"]:
    """Turns DNA letters into codes, in any case; letters other than A, C, G, T become unknown.

    Raises:
      NotALetter: a character is not a letter (a gap, a digit, a blank); names its position.
    """
    raw = text.encode("latin-1", "replace") if isinstance(text, str) else bytes(text)
    codes = _CODE_OF_BYTE[np.frombuffer(raw, np.uint8)]
    if codes.size and codes.max() == _NOT_A_LETTER:
        position = int(np.argmax(codes == _NOT_A_LETTER))
        character = text[position] if isinstance(text, str) else chr(raw[position])
        raise NotALetter(character, position)
    return codes


def decode(codes: UInt8[np.ndarray, " L"]) -> str:
    """Writes codes as upper-case text, unknown bases as N.

    Raises:
      ValueError: a value is not one of 0, 1, 2, 4, 8.
    """
    return _translate(codes, _LETTER_OF_CODE).tobytes().decode("ascii")


def reverse_complement(codes: UInt8[np.ndarray, "*batch L"]) -> UInt8[np.ndarray, "*batch L"]:
    """Reads the other strand, along the last axis; an unknown base stays unknown.

    Raises:
      ValueError: a value is not one of 0, 1, 2, 4, 8.
    """
    return np.ascontiguousarray(_translate(codes, _COMPLEMENT_OF_CODE)[..., ::-1])


def pack(codes: UInt8[np.ndarray, " L"]) -> UInt8[np.ndarray, " packed"]:
    """Puts two bases into a byte, the first in the low nibble; an odd end leaves a high nibble 0.

    Raises:
      ValueError: a value does not fit into four bits.
    """
    if codes.size and codes.max() > 15:
        raise ValueError(f"code {int(codes.max())} does not fit into four bits")
    packed = codes[0::2].copy()
    packed[: codes.size // 2] |= codes[1::2] << 4
    return packed


def unpack(packed: UInt8[np.ndarray, " packed"], length: int) -> UInt8[np.ndarray, " L"]:
    """Undoes `pack` for a sequence of `length` bases.

    Raises:
      ValueError: the number of bytes does not belong to `length`.
    """
    if length < 0 or packed.size != (length + 1) // 2:
        raise ValueError(f"{packed.size} packed bytes cannot hold exactly {length} bases")
    return _nibbles(packed)[:length]


def pack_many(
    codes: UInt8[np.ndarray, " L"], lengths: Int[np.ndarray, " n"]
) -> UInt8[np.ndarray, " packed"]:
    """Packs concatenated sequences so that each one starts on a byte of its own.

    Raises:
      ValueError: `lengths` do not add up to the number of codes.
    """
    lengths = lengths.astype(np.int64)
    if lengths.sum() != codes.size:
        raise ValueError(
            f"sequence lengths add up to {lengths.sum()}, but there are {codes.size} codes"
        )
    ends_of_odd = np.cumsum(lengths)[lengths % 2 == 1]
    return pack(np.insert(codes, ends_of_odd, np.uint8(UNKNOWN)))


def unpack_many(
    packed: UInt8[np.ndarray, " packed"], lengths: Int[np.ndarray, " n"]
) -> UInt8[np.ndarray, " L"]:
    """Undoes `pack_many`: the codes of all sequences, concatenated without gaps.

    Raises:
      ValueError: the number of bytes does not belong to `lengths`.
    """
    lengths = lengths.astype(np.int64)
    sizes = (lengths + 1) // 2
    if (lengths < 0).any() or packed.size != sizes.sum():
        raise ValueError(
            f"{packed.size} packed bytes do not belong to {lengths.size} sequences "
            f"of {lengths.sum()} bases"
        )
    fillers = 2 * np.cumsum(sizes)[lengths % 2 == 1] - 1
    return np.delete(_nibbles(packed), fillers)


def one_hot(
    codes: UInt8[np.ndarray, "*batch L"], *, unknown: float | int = 0.25
) -> Float32[np.ndarray, "*batch L 4"]:
    """Expands codes on the host; an unknown base gets `unknown` in all four channels.

    Padding is not known here: pass `unknown=0` for positions that must be all zero.

    Raises:
      ValueError: a value is not one of 0, 1, 2, 4, 8.
    """
    table = np.full((256, 4), np.nan, np.float32)
    table[UNKNOWN] = unknown
    table[1 << np.arange(4)] = np.eye(4, dtype=np.float32)
    _translate(codes, _LETTER_OF_CODE)
    return table[codes]


def _nibbles(packed: np.ndarray) -> np.ndarray:
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)


def _translate(codes: np.ndarray, table: np.ndarray) -> np.ndarray:
    translated = table[codes]
    if translated.size and translated.max() == _NOT_A_CODE:
        bad = int(codes[translated == _NOT_A_CODE].flat[0])
        raise ValueError(
            f"{bad} is not a base code; expected 0 (unknown), 1 (A), 2 (C), 4 (G) or 8 (T)"
        )
    return translated
