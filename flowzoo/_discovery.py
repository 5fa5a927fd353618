"""Find the classes that the modules of a package define, so that a new file needs no registration."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable


def public_subclasses(package: str, path: Iterable[str], base: type) -> dict[str, type]:
    """Import every module of a package and return its public subclasses of `base` by name.

    Args:
        package: dotted name of the package.
        path: its `__path__`.
        base: the class whose subclasses are wanted; it is not among them.

    Returns:
        Class name to class, in alphabetical order of the modules.
    """
    found: dict[str, type] = {}
    for info in pkgutil.iter_modules(path):
        module = importlib.import_module(f"{package}.{info.name}")
        for name, value in inspect.getmembers(module, inspect.isclass):
            own = value.__module__ == module.__name__ and not name.startswith("_")
            if own and issubclass(value, base) and value is not base:
                found[name] = value
    return found
