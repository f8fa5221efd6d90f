"""Reads stretches of a FASTA file as nibble codes: plain, BGZF or plain gzip.

Coordinates are 0-based half-open; past either end of a contig the sequence is N. Nothing is ever
written beside the FASTA: an index that is missing or does not fit, and the unpacked form of a
compressed file, live in a cache folder (`cache_dir`, else $EPINFORMER_CACHE_DIR, else
epinformer_jax in the user's cache).
"""

import gzip
import hashlib
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pyfaidx
from absl import logging
from jaxtyping import UInt8

from epinformer_jax.data import atomic, chromosomes, sequence

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20


class Genome:
    """An open FASTA file; a context manager, and picklable (it opens again on the other side).

    `contigs` maps names to lengths in file order; a name ends at the first blank of the header
    line.

    Raises:
      ValueError: not FASTA, uneven line lengths, a contig name twice, a damaged gzip file.
      OSError: the file cannot be read, or the cache cannot be written.
    """

    def __init__(self, path: str | os.PathLike, cache_dir: str | os.PathLike | None = None):
        self.path = Path(path)
        self._cache_dir = cache_dir
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such FASTA file")
        cache = _cache_folder(cache_dir)
        plain = _unpacked(self.path, cache) if _is_gzip(self.path) else self.path
        if plain.suffix in (".gz", ".bgz"):
            raise ValueError(f"{self.path}: named {plain.suffix} but is not compressed; rename it")
        try:
            self._faidx = pyfaidx.Faidx(
                str(plain), indexname=str(_index_of(plain, cache)), as_raw=True
            )
        except (pyfaidx.FastaIndexingError, ValueError) as error:
            told = f"{self.path}: cannot be indexed as FASTA: {error}"
            raise ValueError(_repeated_name(self.path, plain) or told) from None
        self.contigs: dict[str, int] = {
            name: record.rlen for name, record in self._faidx.index.items()
        }

    def __enter__(self) -> "Genome":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self):
        return Genome, (self.path, self._cache_dir)

    def close(self) -> None:
        """Closes the file; fetching afterwards is an error."""
        self._faidx.close()

    @property
    def name(self) -> str:
        """The file's name without its FASTA and gzip endings."""
        name = self.path.name
        for ending in (".gz", ".bgz", ".fa", ".fasta", ".fna"):
            name = name.removesuffix(ending)
        return name

    @property
    def fingerprint(self) -> str:
        """sha256 over contig names and lengths, whatever their order in the file."""
        ordered = sorted(self.contigs.items())
        text = "".join(f"{name}\t{length}\n" for name, length in ordered)
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self) -> dict:
        """What a manifest says about the genome."""
        return {"name": self.name, "contigs": len(self.contigs), "fingerprint": self.fingerprint}

    def require(self, chrom: str) -> int:
        """Returns the length of a contig.

        Raises:
          ValueError: the FASTA has no such contig; suggests the nearest name.
        """
        if chrom not in self.contigs:
            raise ValueError(
                f"{self.path}: no contig {chrom!r}; {chromosomes.suggest(chrom, self.contigs)}"
            )
        return self.contigs[chrom]

    def fetch(self, chrom: str, start: int, end: int) -> UInt8[np.ndarray, " L"]:
        """Codes of [start, end); positions past either end of the contig are unknown (0).

        Raises:
          ValueError: unknown contig, end before start, or something that is not a letter in the
            sequence.
        """
        length = self.require(chrom)
        if end < start:
            raise ValueError(
                f"{self.path}: end {end} is before start {start} on {chrom}; 0-based, half-open"
            )
        codes = np.full(end - start, sequence.UNKNOWN, np.uint8)
        first, last = max(start, 0), min(end, length)
        if first >= last:
            return codes
        try:
            found = sequence.encode(self._faidx.fetch(chrom, first + 1, last))
        except sequence.NotALetter as error:
            raise ValueError(
                f"{self.path}: {chrom}:{first + error.position + 1:,} (1-based) holds "
                f"{error.character!r}, which is not a DNA letter; expected A, C, G, T, N or "
                "another IUPAC letter"
            ) from None
        if found.size != last - first:
            raise ValueError(
                f"{self.path}: {chrom} is shorter than its index says; delete the index"
            )
        codes[first - start : last - start] = found
        return codes


def _cache_folder(cache_dir: str | os.PathLike | None) -> Path:
    if cache_dir is not None:
        return Path(cache_dir)
    if os.environ.get("EPINFORMER_CACHE_DIR"):
        return Path(os.environ["EPINFORMER_CACHE_DIR"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "epinformer_jax"


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == _GZIP_MAGIC


def _unpacked(path: Path, cache: Path) -> Path:
    """The plain form of a compressed FASTA, unpacked once for its content."""
    with path.open("rb") as file:
        key = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    target = cache / f"{key}.fa"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    logging.info("unpacking %s once into %s", path, target)
    try:
        with (
            atomic.atomic_file(target) as temporary,
            gzip.open(path, "rb") as packed,
            temporary.open("wb") as plain,
        ):
            shutil.copyfileobj(packed, plain, _CHUNK_BYTES)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: damaged gzip file ({error}); download it again") from None
    return target


def _index_of(fasta: Path, cache: Path) -> Path:
    """The .fai beside the FASTA when it fits, else one in the cache, made there if need be."""
    beside = fasta.with_name(f"{fasta.name}.fai")
    if _index_fits(fasta, beside):
        return beside
    stat = fasta.stat()
    identity = f"{fasta.resolve()}\t{stat.st_size}\t{stat.st_mtime_ns}"
    target = cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.fai"
    if not _index_fits(fasta, target):
        cache.mkdir(parents=True, exist_ok=True)
        with atomic.atomic_file(target) as temporary:
            pyfaidx.Faidx(str(fasta), indexname=str(temporary)).close()
    return target


def _repeated_name(path: Path, plain: Path) -> str:
    """Where a name stands a second time, in words; "" where none does."""
    first: dict[bytes, int] = {}
    with plain.open("rb") as file:
        for number, line in enumerate(file, start=1):
            for name in _header_names(line):
                if name in first:
                    shown = name.decode(errors="replace")
                    return (
                        f"{path}:{number}: the name {shown!r} stands in line {first[name]} "
                        "already; give each sequence a name of its own"
                    )
                first[name] = number
    return ""


def _index_fits(fasta: Path, index: Path) -> bool:
    """True when an index is no older than the FASTA and leads from header to header, to the end."""
    if not index.is_file() or index.stat().st_mtime < fasta.stat().st_mtime:
        return False
    try:
        rows = [line.split("\t") for line in index.read_text().splitlines()]
        records = [(row[0].encode(), *map(int, row[1:5])) for row in rows]
        position = 0
        with fasta.open("rb") as file:
            for name, length, offset, line_bases, line_bytes in records:
                file.seek(position)
                if _header_names(file.read(offset - position)) != [name]:
                    return False
                full_lines, rest = divmod(length, line_bases) if line_bases else (0, 0)
                position = offset + full_lines * line_bytes + rest
            file.seek(position)
            return bool(records) and not file.read(_CHUNK_BYTES).strip()
    except (ValueError, TypeError, UnicodeDecodeError):
        return False


def _header_names(gap: bytes) -> list[bytes]:
    """Names of the header lines between two sequences; blank lines and ; comments do not count."""
    lines = [line for line in gap.splitlines() if line.strip() and not line.startswith(b";")]
    return [line[1:].split()[0] for line in lines if line.startswith(b">") and line[1:].split()]
