"""Downloads from a real server that behaves, and from one that does not."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flowzoo import paths, weights
from flowzoo.download import download
from flowzoo.errors import CorruptWeightsError, DownloadError
from flowzoo.manifest import MANIFEST
from tests.artifacts import make_artifact, tree

NAME = "maf_moons"
BIG = f"{NAME}/1/variables/variables.data-00000-of-00001"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; `server.faults` maps a path to a function that answers in another way."""

    def do_GET(self):
        self.server.asked.append(self.path.lstrip("/"))
        fault = self.server.faults.get(self.path.lstrip("/"))
        if fault is None:
            super().do_GET()
        else:
            with contextlib.suppress(ConnectionError):
                fault(self)

    def log_message(self, *args):
        pass

    def body(self):
        with open(self.translate_path(self.path), "rb") as file:
            return file.read()

    def answer(self, body, length=None):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


@pytest.fixture
def server(tmp_path):
    """A server of one published entry."""
    root = tmp_path / "published"
    root.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: Handler(*args, directory=str(root))
    )
    server.faults, server.asked, server.stopped = {}, [], threading.Event()
    server.folder, server.digest = make_artifact(root, NAME)
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.stopped.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "home" / "models" / NAME


def fetch(server, target, **options):
    return download(NAME, server.url, server.digest, target, **options)


def republish(server, content):
    """Publishes another manifest, with the digest that goes with it."""
    (server.folder / MANIFEST).write_bytes(content)
    server.digest = hashlib.sha256(content).hexdigest()


def refused(server, target, match, **options):
    """Downloads, and checks that this fails and leaves nothing at all; returns what was said."""
    with pytest.raises(DownloadError, match=match) as caught:
        fetch(server, target, **options)
    assert not target.exists()
    if target.parent.is_dir():
        assert list(target.parent.iterdir()) == []
    return str(caught.value)


class TestSuccess:
    def test_what_comes_is_what_was_published(self, server, target):
        manifest = fetch(server, target)
        assert manifest.digest == server.digest
        assert tree(target) == tree(server.folder)
        assert [entry.name for entry in target.parent.iterdir()] == [NAME]

    def test_the_list_comes_first_and_nothing_twice(self, server, target):
        fetch(server, target)
        assert server.asked[0] == f"{NAME}/{MANIFEST}"
        assert sorted(server.asked) == sorted(f"{NAME}/{path}" for path in tree(server.folder))

    def test_what_is_there_is_verified_and_not_fetched_again(self, server, target):
        fetch(server, target)
        server.asked.clear()
        assert fetch(server, target).digest == server.digest
        assert server.asked == []
        (target / "samples.png").write_bytes(b"changed")
        with pytest.raises(CorruptWeightsError, match=r"samples\.png"):
            fetch(server, target)

    def test_a_file_url(self, server, target):
        base = server.folder.parent.as_uri()
        assert download(NAME, f"{base}/", server.digest, target).digest == server.digest
        assert tree(target) == tree(server.folder)

    def test_the_registry_of_places_downloads_once(self, server, tmp_path, monkeypatch):
        monkeypatch.setenv("FLOWZOO_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("FLOWZOO_BASE_URL", server.url)
        monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "nowhere" / "flowzoo")
        found = weights.locate(NAME, expected_digest=server.digest)
        assert (found.origin, found.folder) == ("download", tmp_path / "home" / "models" / NAME)
        server.asked.clear()
        assert weights.locate(NAME, expected_digest=server.digest).origin == "home"
        assert server.asked == []

    def test_nothing_is_asked_for_without_published_weights(self, server, tmp_path, monkeypatch):
        monkeypatch.setenv("FLOWZOO_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("FLOWZOO_BASE_URL", server.url)
        monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "nowhere" / "flowzoo")
        with pytest.raises(weights.NoWeightsError):
            weights.locate(NAME, expected_digest=None)
        assert server.asked == []

    def test_a_proxy_does_not_stand_in_for_this_machine(self, server, target, monkeypatch):
        for variable in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        fetch(server, target)
        assert tree(target) == tree(server.folder)

    def test_several_at_once_get_the_same(self, server, target):
        with ThreadPoolExecutor(4) as pool:
            manifests = list(pool.map(lambda _: fetch(server, target), range(4)))
        assert {manifest.digest for manifest in manifests} == {server.digest}
        assert tree(target) == tree(server.folder)
        assert [entry.name for entry in target.parent.iterdir()] == [NAME]


class TestServerFails:
    @pytest.mark.parametrize("path", [f"{NAME}/{MANIFEST}", BIG, f"{NAME}/card.json"])
    def test_a_changed_file(self, server, target, path):
        server.faults[path] = lambda handler: handler.answer(handler.body()[:-1] + b"?")
        message = refused(server, target, "expected SHA-256 [0-9a-f]{64}, got [0-9a-f]{64}")
        assert path in message

    @pytest.mark.parametrize("path", [f"{NAME}/{MANIFEST}", BIG])
    def test_a_body_that_is_cut_off(self, server, target, path):
        def cut(handler):
            body = handler.body()
            handler.answer(body[: len(body) // 2], length=len(body))

        server.faults[path] = cut
        assert path in refused(server, target, r"truncated: \d+ of \d+ bytes")

    @pytest.mark.parametrize("path", [f"{NAME}/{MANIFEST}", BIG])
    def test_a_shorter_file_that_claims_to_be_whole(self, server, target, path):
        server.faults[path] = lambda handler: handler.answer(handler.body()[:100])
        refused(server, target, "expected SHA-256")

    def test_a_server_that_dies_midway(self, server, target):
        def die(handler):
            handler.answer(handler.body()[:1000], length=5000)
            handler.connection.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER 0: close with a reset
            handler.connection.close()

        server.faults[BIG] = die
        assert BIG in refused(server, target, "truncated|reset|failed")

    def test_a_server_that_says_nothing(self, server, target):
        server.faults[BIG] = lambda handler: handler.connection.close()
        refused(server, target, "the download failed")

    def test_chunks_that_end_too_early(self, server, target):
        def chunked(handler):
            handler.protocol_version = "HTTP/1.1"
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            handler.wfile.write(b"64\r\nhalf a chunk")

        server.faults[BIG] = chunked
        refused(server, target, "the download failed")

    def test_a_server_that_stalls(self, server, target):
        def stall(handler):
            handler.answer(b"x", length=5000)
            server.stopped.wait(10)

        server.faults[BIG] = stall
        start = time.monotonic()
        refused(server, target, "timed out", timeout=0.3)
        assert time.monotonic() - start < 5

    @pytest.mark.parametrize("path", [MANIFEST, "1/saved_model.pb"])
    def test_a_file_that_is_not_there(self, server, target, path):
        (server.folder / path).unlink()
        message = refused(server, target, "404 File not found")
        assert f"{server.url}/{NAME}/{path}" in message
        assert "FLOWZOO_BASE_URL" in message

    def test_no_server_at_all(self, server, target):
        server.url = "http://127.0.0.1:9"
        assert "FLOWZOO_BASE_URL" in refused(server, target, "the download failed")

    def test_a_good_download_follows_a_failed_one(self, server, target):
        server.faults[BIG] = lambda handler: handler.answer(b"")
        refused(server, target, "expected SHA-256")
        server.faults.clear()
        fetch(server, target)
        assert tree(target) == tree(server.folder)


class TestServerAttacks:
    @pytest.mark.parametrize(
        "path", ["../evil", "/tmp/evil", "a/../../evil", "..", "a\\..\\evil", "%2e%2e/evil"]
    )
    def test_a_path_that_leaves_the_folder(self, server, target, tmp_path, path):
        (tmp_path / "evil").write_bytes(b"")
        sha256 = hashlib.sha256(b"").hexdigest()
        republish(server, f"{sha256}  {path}\n".encode())
        before = tree(tmp_path)
        refused(server, target, "is refused; accepted: relative paths below the folder")
        assert tree(tmp_path) == before
        assert server.asked == [f"{NAME}/{MANIFEST}"]

    def test_the_weights_of_another_entry(self, server, target, tmp_path):
        other, digest = make_artifact(tmp_path / "other", "nice_moons")
        server.folder.rename(tmp_path / "aside")
        other.rename(server.folder)
        server.digest = digest
        refused(server, target, "belongs to 'nice_moons'")

    @pytest.mark.parametrize("announced", [True, False])
    def test_more_than_is_accepted(self, server, target, announced):
        def endless(handler):
            handler.send_response(200)
            if announced:
                handler.send_header("Content-Length", str(10**12))
            handler.end_headers()
            while not server.stopped.is_set():
                handler.wfile.write(b"x" * 65536)

        for path in (f"{NAME}/{MANIFEST}", BIG):
            server.faults = {path: endless}
            refused(server, target, "larger than the", max_bytes=2_000_000)

    def test_the_limit_is_that_of_the_whole(self, server, target):
        size = sum(len(content) for path, content in tree(server.folder).items() if path != MANIFEST)
        refused(server, target, "larger than the", max_bytes=size - 1)
        fetch(server, target, max_bytes=size)

    @pytest.mark.parametrize(
        "place",
        ["http://example.invalid/x", "ftp://127.0.0.1/x", "file:///etc/passwd", "http://localhost.evil/x"],
    )
    def test_a_redirect_to_less(self, server, target, place):
        def redirect(handler):
            handler.send_response(302)
            handler.send_header("Location", place)
            handler.end_headers()

        server.faults[BIG] = redirect
        refused(server, target, "is refused|not allowed")

    def test_a_redirect_on_this_machine_is_followed(self, server, target):
        def redirect(handler):
            handler.send_response(302)
            handler.send_header("Location", f"{server.url}/moved?signature=1")
            handler.end_headers()

        body = (server.folder.parent / BIG).read_bytes()
        server.faults = {BIG: redirect, "moved?signature=1": lambda handler: handler.answer(body)}
        fetch(server, target)
        assert tree(target) == tree(server.folder)

    def test_redirects_in_a_circle(self, server, target):
        def redirect(handler):
            handler.send_response(302)
            handler.send_header("Location", handler.path)
            handler.end_headers()

        server.faults[BIG] = redirect
        refused(server, target, "302")


class TestArguments:
    @pytest.mark.parametrize(
        "url",
        [
            "http://example.invalid",
            "http://127.0.0.1.example.invalid",
            "http://localhost@example.invalid",
            "ftp://localhost",
            "data:text/plain,x",
            "file://example.invalid/x",
            "https://",
            "https://user:secret@example.invalid",
            "https://example.invalid/?key=secret",
            "http://localhost:port",
            "http://[::1",
            "example.invalid",
            "/tmp",
            "",
        ],
    )
    def test_a_url_that_is_not_safe(self, target, url):
        with pytest.raises(DownloadError) as caught:
            download(NAME, url, "0" * 64, target)
        assert "secret" not in str(caught.value)
        assert not target.parent.exists()

    def test_a_path_is_told_how_a_url_of_it_looks(self, target):
        with pytest.raises(DownloadError, match=r"'/tmp' is not a URL; accepted: .*file:///"):
            download(NAME, "/tmp", "0" * 64, target)

    @pytest.mark.parametrize("name", ["../maf_moons", "maf", "", None])
    def test_a_name_that_is_none(self, server, target, name):
        with pytest.raises(ValueError, match="name: received"):
            download(name, server.url, server.digest, target)

    @pytest.mark.parametrize("digest", [None, "", "0" * 63, "G" * 64])
    def test_nothing_is_fetched_without_a_digest(self, server, target, digest):
        with pytest.raises(ValueError, match="digest: received"):
            download(NAME, server.url, digest, target)
        assert server.asked == []


class TestTarget:
    def test_a_place_that_cannot_be_written(self, server, tmp_path):
        (tmp_path / "file").write_text("file")
        for target in (tmp_path / "file" / NAME, tmp_path / "file", Path("/proc/flowzoo/models")):
            with pytest.raises(DownloadError, match=f"cannot be written to {target.parent}.*FLOWZOO_HOME"):
                fetch(server, target)
        assert (tmp_path / "file").read_text() == "file"

    def test_a_full_disk(self, server, target):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
        try:
            refused(server, target, "cannot be written")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        fetch(server, target)
        assert tree(target) == tree(server.folder)


CODE = """
import signal, sys
from flowzoo.download import download
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin without
download(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], progress={progress})
"""


def command(server, target, progress=None):
    code = CODE.format(progress=progress)
    return [sys.executable, "-c", code, NAME, server.url, server.digest, str(target)]


class TestInterruption:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
    def test_a_killed_download_leaves_no_target_and_the_next_one_succeeds(self, server, target, number):
        midway = threading.Event()

        def half(handler):
            handler.answer(handler.body()[:2500], length=5000)
            midway.set()
            server.stopped.wait(20)

        server.faults[BIG] = half
        process = subprocess.Popen(command(server, target), stderr=subprocess.DEVNULL)
        assert midway.wait(20)
        assert not target.exists()
        process.send_signal(number)
        assert process.wait(20) != 0
        assert not target.exists()
        left = [entry.name for entry in target.parent.iterdir()]
        assert len(left) == (number == signal.SIGKILL)  # only a kill leaves something behind
        server.faults.clear()
        fetch(server, target)
        assert tree(target) == tree(server.folder)
        assert [entry.name for entry in target.parent.iterdir()] == [NAME]


def on_a_terminal(arguments):
    """Runs a command with a terminal as its stderr and returns what it wrote there."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(arguments, stderr=theirs, env=os.environ | {"TERM": "xterm"})
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as terminal:
        while chunk := terminal.read(4096):
            written += chunk
    assert process.wait(20) == 0
    return written.decode()


class TestProgress:
    def test_it_is_shown_on_a_terminal(self, server, target):
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", on_a_terminal(command(server, target)))
        assert "saved_model.pb" in shown
        assert "2.0/2.0 kB" in shown

    def test_a_terminal_is_left_alone_when_asked(self, server, target):
        assert on_a_terminal(command(server, target, progress=False)) == ""

    @pytest.mark.parametrize("forced", [None, True])
    def test_elsewhere_it_is_shown_on_stderr_only_when_forced(self, server, target, forced):
        done = subprocess.run(command(server, target, progress=forced), capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "")
        assert ("saved_model.pb" in done.stderr) == bool(forced)
        assert bool(done.stderr) == bool(forced)
