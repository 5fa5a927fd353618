"""The models: Flow, and one family a file. A new file is a new family, found by its `family` name."""

from __future__ import annotations

from flowzoo._discovery import public_subclasses
from flowzoo.models.base import Flow

globals().update(public_subclasses(__name__, __path__, Flow))

__all__ = ["Flow", "families", *sorted(public_subclasses(__name__, __path__, Flow))]


def families() -> dict[str, type[Flow]]:
    """Return the model families by name: the subclasses of Flow that have a `family`."""
    found = public_subclasses(__name__, __path__, Flow).values()
    return {cls.family: cls for cls in found if getattr(cls, "family", None)}
