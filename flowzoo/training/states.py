"""The states of a training on disk: the newest and the one before it, each with its SHA-256."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import re
import shutil
from pathlib import Path

from flowzoo.errors import DataError
from flowzoo.files import write_atomic

_log = logging.getLogger(__name__)

_NAME = re.compile(r"step_(\d+)\.([0-9a-f]{64})\.npz")
KEPT = 2


@dataclasses.dataclass(frozen=True)
class State:
    """A state that was read.

    Attributes:
        path: its file.
        content: what the file holds, verified.
    """

    path: Path
    content: bytes


class StateFolder:
    """A folder of states, `step_STEP.SHA256.npz`: the name says what must be in the file.

    A file appears whole, under a name of its own, before an older one is deleted: at any moment the newest
    state is there, and, once there were two, the one before it. One process writes.

    Args:
        folder: where they lie; it is made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._good: Path | None = None

    def newest(self) -> State | None:
        """Read the newest state that is whole; None where there are none.

        What is not whole is named in the log, as is the state that is taken instead.

        Raises:
            DataError: there are states, and none is whole.
            OSError: the folder cannot be read.
        """
        found = self._found()
        for place, path in enumerate(found):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == _digest(path):
                if place:
                    _log.warning("the state before it is taken: %s", path)
                self._good = path
                return State(path, content)
            _log.warning("%s is not what was written: its SHA-256 differs", path)
        if found:
            raise DataError(
                f"No state in {self.folder} is whole: their SHA-256 differ from those in their names. "
                f"Delete the folder and train anew, or put a copy of a state there."
            )
        return None

    def write(self, step: int, content: bytes) -> Path:
        """Write the state of a step; the one that was written or read before is kept beside it.

        Raises:
            OSError: it cannot be written; what was there before is unchanged.
        """
        path = self.folder / f"step_{step:09d}.{hashlib.sha256(content).hexdigest()}.npz"
        if path == self._good:
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
        self._delete_all_but(path, self._good)
        self._good = path
        return path

    @property
    def some(self) -> bool:
        """Whether there is a state, whole or not."""
        return bool(self._found())

    @property
    def pairs(self) -> Path:
        """The folder of the pairs that a rectified flow learns from; they go when the states go."""
        return self.folder / "pairs"

    def clear(self) -> None:
        """Delete all states, and what a process that was killed left behind."""
        self._delete_all_but()
        shutil.rmtree(self.pairs, ignore_errors=True)

    def _delete_all_but(self, *kept: Path | None) -> None:
        # The oldest first: a process that dies here leaves more than it should, never an old one alone.
        for path in reversed(self._found()):
            if path not in kept:
                path.unlink(missing_ok=True)
        for path in self.folder.glob(".step_*.part"):
            with contextlib.suppress(OSError):
                path.unlink()

    def _found(self) -> list[Path]:
        """Return the files of states, the newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def _digest(path: Path) -> str:
    found = _NAME.fullmatch(path.name)
    return found[2] if found else ""
