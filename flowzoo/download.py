"""Fetches the weights of an entry: verified before they are used, and there whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flowzoo.config import check_name
from flowzoo.errors import CorruptWeightsError, DownloadError
from flowzoo.files import staged_folder
from flowzoo.manifest import MANIFEST, Manifest, check, is_digest, parse_manifest, verify
from flowzoo.pacing import PacedHTTPHandler, PacedHTTPSHandler

if TYPE_CHECKING:
    from rich.progress import Progress

MAX_BYTES = 2 * 1024**3
TIMEOUT = 30.0

_MAX_MANIFEST_BYTES = 1024**2
_CHUNK = 256 * 1024
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

logger = logging.getLogger(__name__)


def download(
    name: str,
    base_url: str,
    digest: str,
    target: str | os.PathLike[str],
    *,
    progress: bool | None = None,
    timeout: float = TIMEOUT,
    max_bytes: int = MAX_BYTES,
) -> Manifest:
    """Fetches the folder of an entry from `<base_url>/<name>/`.

    SHA256SUMS comes first and must have the digest; then comes every file that it lists, each hashed on its
    way. All is written to a temporary folder beside `target`, which takes that name when it is complete and
    verified: an interruption at any point leaves no `target`, and the next call begins anew.

    Args:
        name: The name of the entry.
        base_url: An https or file URL; http only for this very machine.
        digest: The SHA-256 of the entry's SHA256SUMS.
        target: The folder to make. One that exists is verified and returned as it is.
        progress: Whether a progress bar is shown on stderr; None shows it on a terminal.
        timeout: Seconds without an answer, or with less than 1,000 bytes each, after which a connection is
            given up.
        max_bytes: The most that is accepted for the whole entry.

    Returns:
        The verified manifest.

    Raises:
        ValueError: The name or the digest is malformed.
        DownloadError: The URL is refused, the server fails, what it sends is not what was asked for, or the
            folder cannot be written. Nothing is left behind.
        CorruptWeightsError: `target` exists and is corrupt.
    """
    check_name(name)
    if not is_digest(digest):
        raise ValueError(f"digest: received {digest!r}; accepted: a SHA-256 of 64 lower-case hex digits.")
    url = f"{_base(base_url)}/{name}"
    target = Path(target)
    if target.is_dir():
        return verify(target, digest, name)
    logger.info("Downloading the weights of %s from %s to %s.", name, url, target)
    try:
        with staged_folder(target) as folder, _progress_bar(progress) as bar:
            return _Transfer(url, folder, bar, timeout, max_bytes).run(name, digest)
    except OSError as error:
        if isinstance(error, FileExistsError) and target.is_dir():
            return verify(target, digest, name)  # Another process was faster.
        why = (error.strerror or str(error)).rstrip(".")
        raise DownloadError(
            f"The weights of {name!r} cannot be written to {error.filename or target}: {why}. Nothing was "
            "changed. Make room, or set FLOWZOO_HOME to a folder that can be written."
        ) from error


class _Transfer:
    """One download: where from, where to, and what is still allowed."""

    def __init__(self, url: str, folder: Path, bar: Progress, timeout: float, max_bytes: int) -> None:
        self.url = url
        self.folder = folder
        self.bar = bar
        self.timeout = timeout
        self.left = max_bytes
        # A proxy would make "this very machine" another one; over https it cannot change anything.
        proxies = {scheme: url for scheme, url in urllib.request.getproxies().items() if scheme == "https"}
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler(proxies), _SafeRedirects, PacedHTTPHandler, PacedHTTPSHandler
        )

    def run(self, name: str, digest: str) -> Manifest:
        """Fetches and verifies everything."""
        url = f"{self.url}/{MANIFEST}"
        content = b"".join(self._chunks(MANIFEST, _MAX_MANIFEST_BYTES))
        received = hashlib.sha256(content).hexdigest()
        if received != digest:
            raise DownloadError(f"{url}: expected SHA-256 {digest}, got {received}. {_NOT_PUBLISHED}")
        try:
            for path, sha256 in parse_manifest(content, url).files.items():
                self._save(path, sha256)
            (self.folder / MANIFEST).write_bytes(content)
            return check(self.folder, digest, name)
        except CorruptWeightsError as error:
            raise DownloadError(f"{self.url}: what lies there cannot be used. {error}") from error

    def _save(self, path: str, sha256: str) -> None:
        file_path = self.folder / path
        file_path.parent.mkdir(parents=True, exist_ok=True)
        sha = hashlib.sha256()
        with open(file_path, "xb") as file:
            for chunk in self._chunks(path, self.left):
                self.left -= len(chunk)
                sha.update(chunk)
                file.write(chunk)
        if sha.hexdigest() != sha256:
            raise DownloadError(
                f"{self.url}/{path}: expected SHA-256 {sha256}, got {sha.hexdigest()}. {_NOT_PUBLISHED}"
            )

    def _chunks(self, path: str, limit: int) -> Iterator[bytes]:
        """Yields the body of a file, at most `limit` bytes; DownloadError is all that it raises."""
        url = f"{self.url}/{path}"
        request = urllib.request.Request(url, headers={"User-Agent": "flowzoo"})
        try:
            with self.opener.open(request, timeout=self.timeout) as response:
                yield from self._body(response, path, limit)
        except DownloadError as error:
            raise DownloadError(f"{url}: {error}") from error.__cause__
        except urllib.error.HTTPError as error:
            error.close()
            answer = f"{error.code} {error.reason}"
            raise DownloadError(f"{url}: the server answered {answer}. {_CHECK_URL}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            raise DownloadError(f"{url}: the download failed: {reason}. {_CHECK_URL}") from error

    def _body(self, response: Any, path: str, limit: int) -> Iterator[bytes]:  # noqa: ANN401
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        task = self.bar.add_task(f"{self.url.rpartition('/')[2]}/{path}", total=total)
        received = 0
        while received <= limit and (chunk := response.read(_CHUNK)):
            received += len(chunk)
            self.bar.update(task, completed=received)
            yield chunk
        if max(received, total or 0) > limit:
            raise DownloadError(f"it is larger than the {limit} bytes that are still accepted.")
        if total is not None and received < total:
            raise DownloadError(f"truncated: {received} of {total} bytes came. Try again.")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to where a download may start, and never from https to less."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,  # noqa: ANN401
    ) -> urllib.request.Request | None:
        """Checks the new address before anything is asked of it."""
        _check_address(newurl, ("https",) if req.type == "https" else ("https", "http"))
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_CHECK_URL = "Check FLOWZOO_BASE_URL and the connection, and try again."
_NOT_PUBLISHED = "It is not the file that was published, and it was thrown away."


def _base(url: str) -> str:
    """Checks the base URL and returns it without a slash at its end."""
    if not isinstance(url, str):
        raise TypeError(f"base_url: received {type(url).__name__}; accepted: a URL as text.")
    _check_address(url, ("https", "file", "http"))
    parts = urlsplit(url)
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise DownloadError(
            f"The URL on {parts.hostname!r} is refused: a base URL has no user, password, query or fragment."
        )
    return url.rstrip("/")


def _check_address(url: str, schemes: tuple[str, ...]) -> None:
    """Refuses a URL over which someone in between could send anything, or read what is asked."""
    try:
        parts = urlsplit(url)
        scheme, host, _ = parts.scheme, parts.hostname, parts.port
    except ValueError as error:
        raise DownloadError(f"{url!r} is not a URL: {error}.") from error
    if not scheme:
        raise DownloadError(f"{url!r} is not a URL; accepted: https://..., and file:///... for a folder.")
    hosts = {"https": bool(host), "http": host in _LOOPBACK, "file": host in (None, "localhost")}
    if scheme not in schemes or not hosts[scheme]:
        raise DownloadError(
            f"The URL {scheme}://{host or ''} is refused; accepted: https://..., file:///..., and http only "
            "for localhost. A redirect may lead to https, and never from https to anything less."
        )


def _progress_bar(wanted: bool | None) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    shown = sys.stderr.isatty() if wanted is None else wanted
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    return Progress(*columns, console=Console(stderr=True), disable=not shown)
