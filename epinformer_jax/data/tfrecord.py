"""The TFRECORD container: length, checksum, data, checksum, one record after the other.

Bytes are those TensorFlow writes and reads: a little-endian uint64 length, the masked CRC-32C of
those eight bytes, the data, the masked CRC-32C of the data. Every checksum is verified on reading.
"""

import struct
from collections.abc import Iterator

import google_crc32c

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_LENGTH = struct.Struct("<Q")
_MASK_DELTA = 0xA282EAD8


def frame(data: bytes) -> bytes:
    """Wraps the data of one record."""
    length = _LENGTH.pack(len(data))
    return b"".join((length, _masked_crc(length), data, _masked_crc(data)))


def split_records(content: bytes, name: str) -> Iterator[tuple[int, int, bytes]]:
    """Yields record number (from 0), byte offset and data of each record of a whole file.

    Raises:
      ValueError: a record is damaged or cut off; names the file (`name`), the record and its byte
        offset.
    """
    offset = number = 0
    while offset < len(content):
        place = f"{name}: record {number} at byte {offset}"
        data_at = offset + _HEADER.size
        if data_at > len(content):
            raise ValueError(f"{place}: cut off inside the length; copy or build the file again")
        length, _ = _HEADER.unpack_from(content, offset)
        if content[offset + 8 : data_at] != _masked_crc(content[offset : offset + 8]):
            raise ValueError(
                f"{place}: damaged (checksum of the length); copy or build the file again"
            )
        footer_at = data_at + length
        end = footer_at + _FOOTER.size
        if end > len(content):
            raise ValueError(
                f"{place}: cut off, {length} bytes announced; copy or build the file again"
            )
        data = content[data_at:footer_at]
        if content[footer_at:end] != _masked_crc(data):
            raise ValueError(
                f"{place}: damaged (checksum of the data); copy or build the file again"
            )
        yield number, offset, data
        offset, number = end, number + 1


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return _FOOTER.pack(((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF)
