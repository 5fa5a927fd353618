"""Where the command line writes: messages for people, one JSON line for programs, never mixed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

Item = TypeVar("Item")

# A table that goes into a pipe must not be cut to the width of some terminal.
_PIPE_WIDTH = 1000


class Talk:
    """What a command says.

    Messages go to standard output, or to standard error where standard output belongs to a program.
    """

    def __init__(self, for_program: bool) -> None:
        """Sets where messages go.

        Args:
            for_program: Whether standard output holds only what a program reads.
        """
        self.for_program = for_program

    @property
    def _messages(self) -> TextIO:
        return sys.stderr if self.for_program else sys.stdout

    @property
    def on_terminal(self) -> bool:
        """Whether messages go to a terminal, where bars can move."""
        return self._messages.isatty()

    def say(self, message: str) -> None:
        """Writes one message to people."""
        self._messages.write(f"{message}\n")
        self._messages.flush()

    def result(self, content: Any) -> None:
        """Writes the one JSON line of a command, if a program reads."""
        if self.for_program:
            sys.stdout.write(json.dumps(_plain(content), ensure_ascii=False, allow_nan=False) + "\n")
            sys.stdout.flush()

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Writes a table to people."""
        width = None if self.on_terminal else _PIPE_WIDTH
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*row)
        Console(file=self._messages, width=width, markup=False, highlight=False).print(table)

    @contextmanager
    def output_for_people(self) -> Iterator[None]:
        """Sends what others print to standard output, as Keras prints its progress, to where messages go."""
        stdout = sys.stdout
        sys.stdout = self._messages
        try:
            yield
        finally:
            sys.stdout = stdout

    def progress(self, items: Sequence[Item], label: str) -> Iterator[Item]:
        """Yields the items, with a bar on a terminal when there are several."""
        if len(items) < 2 or not sys.stderr.isatty():
            yield from items
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            yield from bars.track(items, description=label)


def _plain(content: Any) -> Any:
    """Turns what JSON does not know, NaN among it, into what it knows."""
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple | set):
        return [_plain(value) for value in content]
    if hasattr(content, "tolist"):
        return _plain(content.tolist())
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if content is None or isinstance(content, str | int | bool):
        return content
    return str(content)
