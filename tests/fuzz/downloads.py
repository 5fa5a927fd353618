"""Servers that mean harm, or are broken: nothing but the published bytes is ever kept, and nothing hangs."""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from flowzoo.download import download
from flowzoo.errors import ConfigError, DownloadError
from flowzoo.manifest import MANIFEST, write_manifest
from tests.artifacts import tree
from tests.fuzz.harness import Defect, Target
from tests.fuzz.mutate import NUMBERS, WORDS, mutate

NAME = "maf_moons"
# So short that one that drips is noticed within an input; a server on this machine answers in a millisecond.
TIMEOUT = 0.5
MOST = 100_000
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
Answer = Callable[[socket.socket], None]


@dataclass
class World:
    """A server on this machine, which answers by `faults` or else as published, and where downloads go."""

    folder: Path
    url: str
    published: dict[str, bytes]
    digest: str
    faults: dict[str, Answer] = field(default_factory=dict)
    connected: list[str] = field(default_factory=list)

    @property
    def target(self) -> Path:
        """Where an entry is downloaded to."""
        return self.folder / "models" / NAME


@dataclass(frozen=True)
class Given:
    """What is asked for, and how the server answers for some paths."""

    faults: dict[str, Answer]
    name: Any = NAME
    url: Any = None
    digest: Any = None


@contextmanager
def world() -> Iterator[World]:
    """Publish a small entry on a server of one thread."""
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as listener:
        source = Path(name) / "published"
        (source / "1").mkdir(parents=True)
        (source / "card.json").write_text(f'{{"name": "{NAME}"}}')
        (source / "1" / "saved_model.pb").write_bytes(bytes(range(256)) * 8)
        digest = write_manifest(source)
        made = World(
            Path(name) / "home", f"http://127.0.0.1:{listener.getsockname()[1]}", tree(source), digest
        )
        made.folder.mkdir()
        stop = threading.Event()
        thread = threading.Thread(target=_serve, args=(listener, made, stop), daemon=True)
        thread.start()
        connect = socket.create_connection

        def recorded(address: Any, *args: Any, **kwargs: Any) -> socket.socket:
            made.connected.append(address[0])
            if address[0] not in _LOOPBACK:
                raise ConnectionRefusedError("a test asks no other machine")
            return connect(address, *args, **kwargs)

        with mock.patch("socket.create_connection", recorded):
            yield made
        stop.set()
        with contextlib.suppress(OSError):
            connect(listener.getsockname(), timeout=1).close()
        thread.join()


def _serve(listener: socket.socket, world: World, stop: threading.Event) -> None:
    while not stop.is_set():
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            with connection.makefile("rb") as request:
                line = request.readline().decode("latin-1").split()
                while request.readline().strip():
                    pass
            path = line[1].removeprefix(f"/{NAME}/") if len(line) > 1 else ""
            world.faults.get(path, _published(world, path))(connection)


def _published(world: World, path: str) -> Answer:
    body = world.published.get(path)
    return _answer(body) if body is not None else _raw(b"HTTP/1.0 404 No\r\n\r\n")


def _answer(body: bytes, length: object = None, status: object = 200, *headers: str) -> Answer:
    lines = [f"HTTP/1.0 {status} x", *headers]
    if length != "none":
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return _raw("\r\n".join([*lines, "", ""]).encode("latin-1", errors="replace") + body)


def _raw(content: bytes) -> Answer:
    return lambda connection: connection.sendall(content)


# --- Inputs -------------------------------------------------------------------------------------------------


def make(r: random.Random, world: World) -> Given:
    """Let the server answer one request wrongly; or publish a list that lies; or ask for what is refused."""
    way = r.random()
    if way < 0.12:
        return _odd_question(r, world)
    if way < 0.3:
        return _evil_list(r, world)
    path = r.choice(list(world.published))
    return Given({path: r.choice(_FAULTS)(r, world, world.published[path])})


def _odd_question(r: random.Random, world: World) -> Given:
    odd = (*WORDS, None, 3, b"x")
    schemes = ("http", "ftp", "data", "javascript", "FILE", "HTTPS", "https ", "gopher", "jar:file", "")
    hosts = ("example.invalid", "localhost.evil", "127.0.0.1@evil", "evil@127.0.0.1", "[::1", "127.1", "0",
    "2130706433",
             "127.0.0.1:99999", "127.0.0.1:x", "", "127.0.0.1#x", "127.0.0.1?x", "\u2460\u2461.1",
             "127。0。0。1")  # fmt: skip
    way = r.randrange(4)
    if way == 0:
        return Given({}, url=f"{r.choice(schemes)}://{r.choice(hosts)}/{r.choice(WORDS)}")
    if way == 1:
        return Given(
            {}, url=r.choice((*odd, "file:///etc", f"file://{world.folder}/../published", "//127.0.0.1/x"))
        )
    if way == 2:
        return Given(
            {},
            name=r.choice(
                (*odd, "../../x", "maf_moons/", "maf_moons\n", "MAF_moons", "maf moons", "a_b/../c_d")
            ),
        )
    return Given({}, digest=r.choice((*odd, world.digest.upper(), world.digest[:-1], "0" * 64, "g" * 64)))


def _evil_list(r: random.Random, world: World) -> Given:
    """A list with the digest that is asked for, as a publisher who means harm could make."""
    lines = [
        f"{hashlib.sha256(body).hexdigest()}  {path}"
        for path, body in world.published.items()
        if path != MANIFEST
    ]
    names = ("../evil", "/tmp/flowzoo-fuzz-evil", "a/../../evil", "..", ".", "1", "1/saved_model.pb/x",
    "a\\b", "%2e%2e/evil",
             "con", "a" * 300, "a/" * 200 + "b", "é", "x\0y", "-rf", "~", ".hidden", MANIFEST, "card.json",
             "a//b")  # fmt: skip
    lines.insert(
        r.randrange(3), f"{r.choice((hashlib.sha256(b'').hexdigest(), '0' * 64, 'x'))}  {r.choice(names)}"
    )
    lines = sorted(lines, key=lambda line: line[66:]) if r.random() < 0.8 else lines
    content = ("\n".join(lines) + r.choice(("\n", "\n", "", "\n\n"))).encode(errors="surrogatepass")
    content = mutate(r, content, [content]) if r.random() < 0.3 else content
    faults = {MANIFEST: _answer(content)}
    return Given(
        faults | ({"": _answer(b"")} if r.random() < 0.1 else {}), digest=hashlib.sha256(content).hexdigest()
    )


def _changed(r: random.Random, world: World, body: bytes) -> Answer:
    changed = mutate(r, body, list(world.published.values()))
    return _answer(changed if changed != body else body + b"\n")


def _lying_length(r: random.Random, world: World, body: bytes) -> Answer:
    length = r.choice(
        (
            *NUMBERS,
            len(body) - 1,
            len(body) + 1,
            -1,
            "none",
            "x",
            "1e3",
            "+5",
            " 7 ",
            "9" * 5000,
            "\u00b2",
            "0x10",
        )
    )
    return _answer(r.choice((body[:-1], body + b"more")), length)


def _cut(r: random.Random, world: World, body: bytes) -> Answer:
    whole = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    return _raw(whole[: r.randrange(len(whole))])


def _status(r: random.Random, world: World, body: bytes) -> Answer:
    return _answer(
        body + b"x",
        None,
        r.choice((100, 101, 199, 201, 204, 206, 300, 304, 400, 401, 403, 407, 418, 500, 503, 999, 0, -1)),
    )


def _redirect(r: random.Random, world: World, body: bytes) -> Answer:
    places = ("file:///etc/passwd", f"file://{world.folder}", "ftp://127.0.0.1/x",
    "http://example.invalid/x", "data:,x",
              "http://localhost.evil/", f"{world.url}/{NAME}/{MANIFEST}", "/loop", "", "https://",
              "http://127.0.0.1:1/x",
              "javascript:x", "http://[::1", "//example.invalid/x", "http://127.0.0.1@example.invalid/",
              "\0", "http:///x",
              f"{world.url}/{NAME}/card.json", "http://127.0.0.1:99999/")  # fmt: skip
    status = r.choice((301, 302, 303, 307, 308))
    return _answer(
        b"",
        None,
        status,
        f"Location: {r.choice(places)}",
        *(["Location: file:///etc"] if r.random() < 0.2 else []),
    )


def _garbage(r: random.Random, world: World, body: bytes) -> Answer:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: x\r\n\r\n" % len(body) + body[:-1] + b"?"
    return _raw(r.choice((mutate(r, whole[:80], [whole]) + whole[80:], r.randbytes(r.choice((0, 1, 100,
    2000))), b"\r\n" * 9,
                          b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 200,
                          b"HTTP/1.0 200 OK\r\nX: " + b"y" * 70000)))  # fmt: skip


def _chunked(r: random.Random, world: World, body: bytes) -> Answer:
    size = r.choice(
        (b"%x" % len(body), b"-1", b"ffffffffffffffff", b"x", b"", b"0", b"%x;" % len(body) + b"e" * 70000)
    )
    end = r.choice((b"\r\n0\r\n\r\n", b"\r\n", b"", b"\r\n0\r\n" + b"a: b\r\n" * 300))
    return _raw(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\n" + body[:-1] + b"?" + end
    )


def _coded(r: random.Random, world: World, body: bytes) -> Answer:
    return _answer(
        body[::-1],
        None,
        200,
        r.choice(("Content-Encoding: gzip", "Transfer-Encoding: gzip", "Content-Range: bytes 0-1/2")),
    )


def _endless(r: random.Random, world: World, body: bytes) -> Answer:
    """Sends until the other side hangs up."""
    head = r.choice((b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\nContent-Length: 1000000000000\r\n\r\n"))

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(b"x" * 65536)

    return answer


def _slow(r: random.Random, world: World, body: bytes) -> Answer:
    """Sends a byte now and then, or none: rarely, since it takes a time-out to be found out."""
    if r.random() > 0.01:
        return _cut(r, world, body)
    start = r.choice((b"", b"HTTP/1.0 200 OK\r\nX: ", b"HTTP/1.0 200 OK\r\nContent-Length: 2048\r\n\r\n"))
    silent = r.random() < 0.3

    def answer(connection: socket.socket) -> None:
        connection.sendall(start)
        end = time.monotonic() + 20 * TIMEOUT
        while time.monotonic() < end:
            time.sleep(TIMEOUT / 5)
            connection.sendall(b"" if silent else b"x")

    return answer


_FAULTS = (
    _changed, _changed, _lying_length, _cut, _status, _redirect, _redirect, _garbage, _chunked, _coded,
    _endless, _slow,
)  # fmt: skip


# --- What comes of them -------------------------------------------------------------------------------------


def attempt(world: World, given: Given) -> str:
    """Download: either exactly what was published, or an error and nothing; no other machine is asked."""
    world.faults = given.faults
    world.connected.clear()
    try:
        url = world.url if given.url is None else given.url
        digest = world.digest if given.digest is None else given.digest
        download(given.name, url, digest, world.target, progress=False, timeout=TIMEOUT, max_bytes=MOST)
        if digest != world.digest or tree(world.target) != world.published:
            raise Defect(f"other bytes were kept: {sorted(tree(world.target))}")
        shutil.rmtree(world.target)
        return "accepted, as published"
    except DownloadError:
        raise
    except (TypeError, ValueError) as error:
        if given.url is None and given.digest is None and given.name == NAME:
            raise Defect("the arguments were right") from error
        raise
    finally:
        _look_around(world, https=str(given.url).lower().startswith("https:"))


def _look_around(world: World, https: bool) -> None:
    left = [path for path in world.folder.rglob("*") if path != world.target.parent]
    if left or Path("/tmp/flowzoo-fuzz-evil").exists() or (world.folder.parent / "evil").exists():
        shutil.rmtree(world.folder / "models", ignore_errors=True)
        raise Defect(f"something was left behind: {left}")
    if not https and not set(world.connected) <= set(_LOOPBACK):
        raise Defect(f"another machine was asked: {world.connected}")


def _dripping(start: bytes) -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.sendall(start)
        for _ in range(1000):
            time.sleep(TIMEOUT / 5)
            connection.sendall(b"x")

    return answer


KNOWN: dict[str, Callable[[World], Given]] = {
    # A byte within each time-out held the download for as long as the server liked.
    "a body that drips": lambda world: Given(
        {"card.json": _dripping(b"HTTP/1.0 200 OK\r\nContent-Length: 2048\r\n\r\n")}
    ),
    "a header that drips": lambda world: Given({MANIFEST: _dripping(b"HTTP/1.0 200 OK\r\nX: ")}),
}

TARGET = Target(
    "downloads",
    world,
    make,
    attempt,
    clean=(DownloadError, ConfigError, ValueError, TypeError),
    limit=30.0,
    known=KNOWN,
)
