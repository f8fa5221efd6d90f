"""Downloads the public files that the paper used, verified; goes on where it was cut off.

    python -m data_prep download --groups genome,K562 --out data --dry-run

The list is sources.yaml; `--sources MINE.yaml` adds files of one's own, a few lines a cell type.
"""

import argparse
import fnmatch
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import yaml
from tqdm import tqdm

from data_prep.outputs import write_frame
from data_prep.stages import file_sha256

DESCRIPTION = """\
Download the public files behind the published models: genomes, annotation, reads, contacts,
expression, benchmarks, weights. Files that are there and right are kept; a cut-off one goes on at
the byte it ended. Each file is checked by sha256 and size where they are known, and a web page in
its place is refused. What came is listed in OUT/downloads.tsv.

--sources adds lists of your own, YAML such as

  HepG2:                          # a group, chosen by --groups
    - name: HepG2.DNase.bam       # what the file is called in OUT
      encode: ENCFF000AAA         # or fourdn: 4DNFI..., zenodo: RECORD, url: https://...
      bytes: 123456789            # may be left out, as may sha256 and what
      what: DNase reads, hg38"""

_EXAMPLE = "for example: {HepG2: [{name: HepG2.DNase.bam, encode: ENCFF000AAA}]}"
UNKNOWN = "unknown"
RECORD = "downloads.tsv"
_FIELDS = {"name", "url", "encode", "fourdn", "zenodo", "bytes", "sha256", "what"}
_BLOCK_BYTES = 1 << 18
_TIMEOUT_SECONDS = 60
_TEMPORARY_STATUS = (408, 429, 500, 502, 503, 504)
# First bytes of files by the end of their names.
_MAGIC = {
    (".gz", ".bam", ".bgz"): b"\x1f\x8b",
    (".zip", ".pt", ".xlsx"): b"PK",
    (".hic",): b"HIC",
    (".h5", ".cool", ".mcool"): b"\x89HDF",
}
_WEB_PAGE = (b"<!doctype html", b"<html", b"<?xml version")
_PAGE_ENDINGS = (".html", ".htm", ".xml")


@dataclass(frozen=True)
class Source:
    """A file to download: its group, the name it gets, where it is, what is known of it."""

    group: str
    name: str
    url: str
    bytes: int | None
    sha256: str | None
    what: str


def read_sources(path: str | os.PathLike | None = None) -> list[Source]:
    """Reads a YAML list of files: group -> list of {name, url | encode | fourdn | zenodo, ...}.

    `encode: ENCFF257HEE` and `fourdn: 4DNFI...` stand for the addresses of these archives (the
    name's ending says which file), `zenodo: 12738705` for that of a record. bytes and sha256 may be
    left out or `unknown`. None reads the packaged list.

    Raises:
      ValueError: not such a list, an unknown field, a name that leaves the folder or stands twice,
        or no address; names group and file.
    """
    if path is None:
        text = (resources.files("data_prep") / "sources.yaml").read_text("utf-8")
        path = "sources.yaml"
    else:
        text = Path(path).read_text("utf-8")
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(tree, dict) or not all(isinstance(rows, list) for rows in tree.values()):
        raise ValueError(f"{path}: expected groups, each with a list of files; {_EXAMPLE}")
    sources = [
        _source(row, str(group), f"{path}: {group} [{number}]")
        for group, rows in tree.items()
        for number, row in enumerate(rows, start=1)
    ]
    _refuse_repeated(sources, str(path))
    return sources


def _source(row: Any, group: str, place: str) -> Source:
    if not isinstance(row, dict) or not isinstance(row.get("name"), str):
        raise ValueError(f"{place}: expected a mapping with a name; {_EXAMPLE}")
    place = f"{place} {row['name']}"
    unknown = sorted(set(row) - _FIELDS)
    if unknown:
        raise ValueError(
            f"{place}: unknown field {unknown[0]!r}; known: {', '.join(sorted(_FIELDS))}"
        )
    name = PurePosixPath(row["name"])
    if name.is_absolute() or ".." in name.parts or not name.parts or "\\" in row["name"]:
        raise ValueError(f"{place}: the name must stay inside the output folder")
    size = None if row.get("bytes", UNKNOWN) == UNKNOWN else row["bytes"]
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise ValueError(f"{place}: bytes is {size!r}; expected a whole number or {UNKNOWN}")
    sha256 = None if row.get("sha256", UNKNOWN) == UNKNOWN else row["sha256"]
    if sha256 is not None and not _is_sha256(sha256):
        raise ValueError(f"{place}: sha256 is {sha256!r}; expected 64 hexadecimal digits")
    url = _url(row, place)
    return Source(group, str(name), url, size, sha256, str(row.get("what", "")))


def _url(row: Mapping[str, Any], place: str) -> str:
    given = [key for key in ("url", "encode", "fourdn", "zenodo") if row.get(key)]
    if len(given) != 1:
        raise ValueError(f"{place}: give one of url, encode, fourdn, zenodo")
    file = PurePosixPath(row["name"]).name
    ending = file[file.index(".") :] if "." in file else ""
    key = str(row[given[0]])
    url = {
        "url": key,
        "encode": f"https://www.encodeproject.org/files/{key}/@@download/{key}{ending}",
        "fourdn": f"https://data.4dnucleome.org/files-processed/{key}/@@download/{key}{ending}",
        "zenodo": f"https://zenodo.org/records/{key}/files/{file}?download=1",
    }[given[0]]
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"{place}: {url!r} is no http address")
    return url


def _is_sha256(text: Any) -> bool:
    return isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef")


def _refuse_repeated(sources: Sequence[Source], path: str) -> None:
    seen: dict[str, str] = {}
    for source in sources:
        if seen.setdefault(source.name, source.url) != source.url:
            raise ValueError(f"{path}: {source.name} stands for two addresses; rename one")


def choose(
    sources: Sequence[Source], *, groups: Sequence[str] = (), names: Sequence[str] = ()
) -> list[Source]:
    """Sources of the groups (all without any) whose names fit one of the patterns; each once.

    Raises:
      ValueError: an unknown group, or a pattern that fits nothing.
    """
    known = list(dict.fromkeys(source.group for source in sources))
    for group in groups:
        if group not in known:
            raise ValueError(f"no group {group!r}; known: {', '.join(known)}")
    chosen = [source for source in sources if not groups or source.group in groups]
    for pattern in names:
        if not any(fnmatch.fnmatch(source.name, pattern) for source in chosen):
            raise ValueError(f"--names {pattern}: no file of the chosen groups is called so")
    kept = {
        source.name: source
        for source in chosen
        if not names or any(fnmatch.fnmatch(source.name, pattern) for pattern in names)
    }
    return list(kept.values())


def is_there(source: Source, path: Path, recorded: Mapping[str, str]) -> bool:
    """True where the file is whole: by its sha256, stated or of the first download, or its size."""
    if not path.is_file():
        return False
    if source.bytes is not None and path.stat().st_size != source.bytes:
        return False
    wanted = source.sha256 or recorded.get(source.name)
    if wanted is not None:
        return file_sha256(path) == wanted
    return source.bytes is not None


def fetch(source: Source, path: Path, *, tries: int = 5, wait_seconds: float = 2.0) -> str:
    """Downloads a file to `path`, which appears whole and verified; returns its sha256.

    What an earlier try left in `path`.part is continued, if the server can and the file has not
    changed there (ETag or Last-Modified); a try that brought nothing counts towards `tries`.

    Raises:
      ValueError: the server refuses, the connection keeps breaking, a web page came instead, or
        size, first bytes or sha256 are wrong (the part is then deleted).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part, note = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")
    failures, cause = 0, ""
    while failures < tries:
        before = part.stat().st_size if part.is_file() else 0
        try:
            _continue(source, part, note)
            break
        except urllib.error.HTTPError as error:
            if error.code not in _TEMPORARY_STATUS:
                raise ValueError(
                    f"{source.url}: the server says {error.code} {error.reason}; "
                    f"{_advice(error.code)}"
                ) from error
            cause = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            cause = str(error) or type(error).__name__
        after = part.stat().st_size if part.is_file() else 0
        failures = 0 if after > before else failures + 1
        time.sleep(wait_seconds * min(2.0**failures, 30.0) if failures < tries else 0)
    else:
        raise ValueError(
            f"{source.url}: {tries} tries without a byte ({cause}); run it again later, it goes on "
            "where it stopped"
        )
    try:
        digest = _verified(source, part)
    except ValueError:
        part.unlink(missing_ok=True)
        note.unlink(missing_ok=True)
        raise
    os.replace(part, path)
    note.unlink(missing_ok=True)
    return digest


def _continue(source: Source, part: Path, note: Path) -> None:
    """Appends what is missing to the part, in one request."""
    begin, headers = _resumption(source, part, note)
    request = urllib.request.Request(source.url, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.unlink(missing_ok=True)  # the part is as long as the file, or longer: start over
        note.unlink(missing_ok=True)
        begin = 0
        answer = urllib.request.urlopen(source.url, timeout=_TIMEOUT_SECONDS)
    with answer:
        if answer.status != 206:
            begin = 0
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
            raise ValueError(f"{source.url}: the server sent another range than was asked for")
        _refuse_page_type(source, answer.headers.get("Content-Type", ""))
        stamp = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        note.write_text(json.dumps({"url": source.url, "stamp": stamp}))
        length = answer.headers.get("Content-Length")
        total = None if length is None else begin + int(length)
        with (
            open(part, "ab" if begin else "wb") as target,
            tqdm(
                desc=source.name,
                initial=begin,
                total=total,
                unit="B",
                unit_scale=True,
                disable=None,
            ) as bar,
        ):
            while block := answer.read(_BLOCK_BYTES):
                target.write(block)
                bar.update(len(block))
        size = part.stat().st_size
        if total is not None and size < total:
            raise http.client.IncompleteRead(b"", total - size)


def _resumption(source: Source, part: Path, note: Path) -> tuple[int, dict[str, str]]:
    headers = {"User-Agent": "epinformer_jax", "Accept-Encoding": "identity"}
    begin = part.stat().st_size if part.is_file() else 0
    try:
        known = json.loads(note.read_text())
    except (OSError, ValueError):
        known = {}
    # Without a stamp the server cannot say whether the file is still the one that was begun.
    stamp = known.get("stamp", "")
    if begin and known.get("url") == source.url and stamp and not stamp.startswith("W/"):
        return begin, headers | {"Range": f"bytes={begin}-", "If-Range": stamp}
    return 0, headers


def _verified(source: Source, part: Path) -> str:
    size = part.stat().st_size
    with open(part, "rb") as handle:
        first = handle.read(512)
    is_page_name = source.name.lower().endswith(_PAGE_ENDINGS)
    if first.lstrip().lower().startswith(_WEB_PAGE) and not is_page_name:
        raise ValueError(
            f"{source.url}: a web page came instead of {source.name}; open the address in a "
            "browser: it may want a login or have moved"
        )
    if source.bytes is not None and size != source.bytes:
        raise ValueError(
            f"{source.url}: {size:,} bytes came, expected {source.bytes:,}; the file has changed "
            "or was cut off"
        )
    for endings, magic in _MAGIC.items():
        if source.name.lower().endswith(endings) and not first.startswith(magic):
            raise ValueError(
                f"{source.url}: begins with {first[:8]!r}, which is no {Path(source.name).suffix}"
            )
    digest = file_sha256(part)
    if source.sha256 is not None and digest != source.sha256:
        raise ValueError(
            f"{source.url}: sha256 is {digest}, expected {source.sha256}; the file has changed"
        )
    return digest


def _refuse_page_type(source: Source, content_type: str) -> None:
    is_page = content_type.lower().startswith(("text/html", "application/xhtml"))
    if is_page and not source.name.lower().endswith(_PAGE_ENDINGS):
        raise ValueError(
            f"{source.url}: a web page came instead of {source.name}; open the address in a "
            "browser: it may want a login or have moved"
        )


def _advice(code: int) -> str:
    if code in (401, 403):
        return "download it in a browser with a login and put it in place"
    return "look for its new address" if code in (404, 410) else "try again later"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep download`."""
    add = parser.add_argument
    add("--out", metavar="DIR", default="data", help="where files go (default: %(default)s)")
    add("--sources", metavar="YAML", action="append", default=[], help="further lists of files")
    add("--groups", default="", help="comma-separated, such as genome,K562 (default: all)")
    add("--names", default="", help="comma-separated patterns of file names, such as '*.bam'")
    add("--tries", type=int, default=5, help="in a row without a byte (default: %(default)s)")
    add("--dry-run", action="store_true", help="only list what would be downloaded")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 0, or 1 where a file could not be had (the others are tried)."""
    if args.tries < 1:
        raise ValueError(f"--tries {args.tries}; expected at least 1")
    sources = read_sources()
    for path in args.sources:
        sources += read_sources(path)
    _refuse_repeated(sources, "the lists together")
    chosen = choose(sources, groups=_split(args.groups), names=_split(args.names))
    out = Path(args.out)
    recorded = _recorded(out)
    known = sum(source.bytes or 0 for source in chosen)
    unknown = sum(source.bytes is None for source in chosen)
    if args.dry_run:
        for source in chosen:
            size = UNKNOWN if source.bytes is None else f"{source.bytes:,}"
            print(f"{source.group}\t{source.name}\t{size}\t{source.url}\t{source.what}")
        print(f"{len(chosen)} files, {known / 1e9:.1f} GB, and {unknown} of unknown size")
        return 0
    failed = 0
    for number, source in enumerate(chosen, start=1):
        place = f"[{number}/{len(chosen)}] {source.name}"
        path = out / source.name
        if is_there(source, path, recorded):
            print(f"{place}: there, verified")
            continue
        try:
            digest = fetch(source, path, tries=args.tries)
        except ValueError as error:
            failed += 1
            print(f"{place}: FAILED: {error}")
            continue
        recorded[source.name] = digest
        _record(out, source, path.stat().st_size, digest)
        how = "sha256 as expected" if source.sha256 else "sha256 not known before, now recorded"
        print(f"{place}: {path.stat().st_size:,} bytes, {how}")
    print(out)
    return 1 if failed else 0


def _recorded(out: Path) -> dict[str, str]:
    path = out / RECORD
    if not path.is_file():
        return {}
    table = pd.read_csv(path, sep="\t", dtype=str)
    return dict(zip(table["name"], table["sha256"], strict=True))


def _record(out: Path, source: Source, size: int, digest: str) -> None:
    row = pd.DataFrame(
        [{"name": source.name, "bytes": str(size), "sha256": digest, "url": source.url}]
    )
    path = out / RECORD
    if path.is_file():
        older = pd.read_csv(path, sep="\t", dtype=str)
        row = pd.concat([older[older["name"] != source.name], row])
    write_frame(row.sort_values("name"), path)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
