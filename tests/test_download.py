"""`python -m data_prep download`, against a server on this machine only."""

import contextlib
import hashlib
import http.server
import re
import threading

import pytest

from data_prep import __main__ as command
from data_prep import download

CONTENT = bytes(range(256)) * 4000


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `content` with ranges; `cuts` says after how many bytes each answer breaks off."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.requests.append(dict(self.headers))
        if server.statuses:
            status = server.statuses.pop(0)
            self.send_error(status)
            return
        body, status = server.content, 200
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        fits = self.headers.get("If-Range") == server.etag
        if wanted and fits and server.ranges:
            begin = int(wanted[1])
            if begin >= len(body):
                self.send_error(416)
                return
            status, body = 206, body[begin:]
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{len(server.content) - 1}/*")
        self.send_header("ETag", server.etag)
        self.send_header("Content-Type", server.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(body)
        with contextlib.suppress(OSError):
            self.wfile.write(body[:cut])
        self.close_connection = True

    def log_message(self, *args):
        """Silent."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.content, made.etag, made.content_type = CONTENT, '"one"', "application/octet-stream"
        made.ranges, made.cuts, made.statuses, made.requests = True, [], [], []
        made.url = f"http://127.0.0.1:{made.server_port}/file"
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def source(server, name="file.bin", *, size=1_024_000, sha256=None):
    return download.Source("group", name, server.url, size, sha256, "")


def fetch(*arguments, **options):
    return download.fetch(*arguments, wait_seconds=0.0, **options)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_a_file_arrives_whole_and_its_hash_is_returned(server, tmp_path):
    assert fetch(source(server), tmp_path / "a" / "file.bin") == sha256(CONTENT)
    assert (tmp_path / "a" / "file.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file.bin"]


def test_a_broken_connection_goes_on_where_it_stopped(server, tmp_path):
    server.cuts = [300_000, 0, 400_001]
    fetch(source(server), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    begins = [request.get("Range") for request in server.requests]
    assert begins == [None, "bytes=300000-", "bytes=300000-", "bytes=700001-"]


def test_a_killed_download_goes_on_in_the_next_run(server, tmp_path):
    server.cuts = [500_000]
    with pytest.raises(ValueError, match="1 tries without a byte"):
        server.statuses = []
        server.cuts = [500_000, 0, 0]
        fetch(source(server), tmp_path / "file.bin", tries=1)
    assert (tmp_path / "file.bin.part").stat().st_size == 500_000
    assert not (tmp_path / "file.bin").exists()
    fetch(source(server), tmp_path / "file.bin")
    assert server.requests[-1]["Range"] == "bytes=500000-"
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("change", ["content", "no ranges"])
def test_a_part_that_cannot_be_continued_starts_over(server, tmp_path, change):
    server.cuts = [500_000, 0]
    with pytest.raises(ValueError, match="tries"):
        fetch(source(server), tmp_path / "file.bin", tries=1)
    if change == "content":
        server.content, server.etag = CONTENT[::-1], '"two"'
    else:
        server.ranges = False
    fetch(source(server), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == server.content


def test_a_part_as_long_as_the_file_or_longer_is_settled(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"more")
    note = f'{{"url": "{server.url}", "stamp": "\\"one\\""}}'
    (tmp_path / "file.bin.part.json").write_text(note)
    fetch(source(server), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_and_a_refusal_is_not(server, tmp_path):
    server.statuses = [503, 429]
    fetch(source(server), tmp_path / "file.bin")
    server.statuses = [403]
    server.requests.clear()
    with pytest.raises(ValueError, match="403 .* login"):
        fetch(source(server), tmp_path / "other.bin")
    assert len(server.requests) == 1


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_no_data(server, tmp_path, content_type):
    server.content = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"
    server.content_type = content_type
    with pytest.raises(ValueError, match="a web page came instead of reads.tsv"):
        fetch(source(server, "reads.tsv", size=None), tmp_path / "reads.tsv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("file.bin", {"sha256": "0" * 64}, "sha256 is [0-9a-f]{64}, expected 0000"),
        ("file.bin", {"size": 5}, "1,024,000 bytes came, expected 5"),
        ("file.bam", {}, "which is no .bam"),
        ("weights.pt", {}, "which is no .pt"),
    ],
)
def test_a_wrong_file_is_refused_and_not_kept(server, tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message):
        fetch(source(server, name, **options), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def write_list(path, server, **more):
    fields = {"name": "cell/file.bin", "url": server.url} | more
    lines = [f"    {key}: {value}\n" for key, value in fields.items()]
    path.write_text("mine:\n  -\n" + "".join(lines))
    return path


def test_the_command_keeps_what_is_right_and_repairs_what_is_not(server, tmp_path, capsys):
    mine = write_list(tmp_path / "mine.yaml", server)
    arguments = ["download", f"--sources={mine}", "--groups=mine", f"--out={tmp_path / 'out'}"]
    assert command.main(arguments) == 0
    assert "not known before, now recorded" in capsys.readouterr().out
    assert command.main(arguments) == 0
    assert "there, verified" in capsys.readouterr().out and len(server.requests) == 1
    file = tmp_path / "out" / "cell" / "file.bin"
    file.write_bytes(CONTENT[:-1] + b"!")
    assert command.main(arguments) == 0
    assert file.read_bytes() == CONTENT and len(server.requests) == 2
    assert sha256(CONTENT) in (tmp_path / "out" / "downloads.tsv").read_text()


def test_a_file_that_cannot_be_had_does_not_stop_the_others(server, tmp_path, capsys):
    mine = tmp_path / "mine.yaml"
    url = server.url
    mine.write_text(f"mine:\n  - {{name: a.bin, url: {url}}}\n  - {{name: b.bin, url: {url}}}\n")
    server.statuses = [404]
    arguments = ["download", f"--sources={mine}", "--groups=mine", f"--out={tmp_path / 'out'}"]
    assert command.main(arguments) == 1
    said = capsys.readouterr().out
    assert "a.bin: FAILED" in said and "404" in said and (tmp_path / "out" / "b.bin").is_file()


def test_a_dry_run_lists_the_files_and_asks_nobody(server, tmp_path, capsys):
    mine = write_list(tmp_path / "mine.yaml", server, bytes=12)
    arguments = ["download", f"--sources={mine}", f"--out={tmp_path / 'out'}", "--dry-run"]
    assert command.main(arguments) == 0
    said = capsys.readouterr().out
    assert f"mine\tcell/file.bin\t12\t{server.url}" in said and "hg38.fa.gz\t983,659,424" in said
    assert server.requests == [] and not (tmp_path / "out").exists()


def test_the_packaged_list_names_the_published_weights_by_their_sha256(repository):
    sources = download.read_sources()
    table = (repository / "epinformer_jax" / "published_weights.tsv").read_text().splitlines()
    known = {line.split("\t")[0] for line in table[1:] if line.strip()}
    listed = {source.sha256 for source in sources if source.group == "weights"}
    assert listed == known and len(known) == 25
    assert {"genome", "K562", "GM12878", "HepG2", "benchmarks", "published_data"} <= {
        source.group for source in sources
    }
    (reads,) = [source for source in sources if source.name == "K562/dnase.bam"]
    assert reads.url.endswith("/files/ENCFF257HEE/@@download/ENCFF257HEE.bam")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 3", "expected groups"),
        ("a: [3]", r"a \[1\]: expected a mapping"),
        ("a: [{name: x, url: 'https://h/x', size: 3}]", "unknown field 'size'"),
        ("a: [{name: ../x, url: 'https://h/x'}]", "must stay inside"),
        ("a: [{name: x, url: 'file:///x'}]", "is no http address"),
        ("a: [{name: x}]", "give one of url, encode"),
        ("a: [{name: x, url: 'https://h/x', sha256: abc}]", "64 hexadecimal"),
        ("a: [{name: x, url: 'https://h/x', bytes: many}]", "expected a whole number"),
        ("a: [{name: x, url: 'https://h/x'}, {name: x, url: 'https://h/y'}]", "two addresses"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path, text, message):
    (tmp_path / "list.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        download.read_sources(tmp_path / "list.yaml")


def test_an_unknown_group_or_name_is_refused(tmp_path, capsys):
    assert command.main(["download", "--groups=K5", "--dry-run"]) == 2
    assert "no group 'K5'; known: genome" in capsys.readouterr().err
    assert command.main(["download", "--names=zz*", "--dry-run"]) == 2


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(run_python):
    script = (
        "import os, subprocess, sys\n"
        "read, write = os.pipe()\n"
        "os.close(read)\n"
        "words = [sys.executable, '-m', 'data_prep', 'download', '--dry-run']\n"
        "done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True)\n"
        "print(done.returncode, repr(done.stderr))\n"
    )
    assert run_python("-c", script).stdout == "0 ''\n"


def test_the_form_of_a_list_is_shown_where_it_is_needed_and_is_valid(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(["download", "--help"])
    shown = capsys.readouterr().out
    example = shown[shown.index("  HepG2:") : shown.index("options:")]
    path = tmp_path / "mine.yaml"
    path.write_text(example)
    (source,) = download.read_sources(path)
    assert source.group == "HepG2" and source.name == "HepG2.DNase.bam" and source.bytes
    path.write_text("a: 3\n")
    with pytest.raises(ValueError, match="expected groups, .*; for example: {HepG2: .*name:"):
        download.read_sources(path)
