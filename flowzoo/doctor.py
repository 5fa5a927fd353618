"""Looks at this machine and says whether flowzoo can work here, and what is missing.

A check that raises is a failed check with the error as its detail, never the end of the report.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from flowzoo import __version__

# Release lines that the tests and the published weights were made with; pyproject.toml pins the same.
SUPPORTED = {
    "tensorflow": "2.21",
    "keras": "3.15",
    "tensorflow-probability": "0.25",
    "tf-keras": "2.21",
}
OTHERS = ("tensorflow-datasets", "numpy", "protobuf")
_MINIMUM_PYTHON = (3, 11)


@dataclass(frozen=True)
class Check:
    """What one look at the machine found.

    Attributes:
        name: What was looked at.
        ok: Whether flowzoo can use it.
        detail: What was found, and what to do when it is not right.
        required: Whether flowzoo is of no use without it.
    """

    name: str
    ok: bool
    detail: str
    required: bool = True


@dataclass(frozen=True)
class Report:
    """All checks, in the order in which they were made."""

    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Whether everything required is there."""
        return all(check.ok for check in self.checks if check.required)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain data, for JSON."""
        return {"healthy": self.healthy, "checks": [asdict(check) for check in self.checks]}


def diagnose() -> Report:
    """Runs every check; imports TensorFlow, so it takes some seconds."""
    return Report(tuple(_examine()))


def _examine() -> Iterator[Check]:
    yield check_python()
    yield Check("flowzoo", True, __version__ if _version("flowzoo") else f"{__version__}, not installed")
    for name, line in SUPPORTED.items():
        yield check_package(name, _version(name), line)
    for name in OTHERS:
        yield check_package(name, _version(name))
    for name, function, required in CHECKS:
        yield _guarded(name, function, required)


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Check:
    """Looks at the version of the interpreter."""
    wanted = ".".join(map(str, _MINIMUM_PYTHON))
    found = f"{'.'.join(map(str, version))} on {platform.system()} {platform.machine()}"
    ok = version[:2] >= _MINIMUM_PYTHON
    return Check("python", ok, found if ok else f"{found}; flowzoo needs {wanted} or newer")


def check_package(name: str, version: str | None, line: str | None = None) -> Check:
    """Looks at the version of a package.

    Args:
        name: Its name on the package index.
        version: What is installed, or None.
        line: The release line that is needed, such as `"2.21"`; None accepts any.
    """
    fix = f"pip install '{name}=={line}.*'" if line else f"pip install {name}"
    if version is None:
        return Check(name, False, f"not installed: {fix}")
    if line and not f"{version}.".startswith(f"{line}."):
        return Check(name, False, f"{version}, but flowzoo works with {line}: {fix}")
    return Check(name, True, version)


def check_backend() -> str:
    """Keras 3 must run on TensorFlow."""
    fix = "flowzoo needs 'tensorflow': unset KERAS_BACKEND, and look at ~/.keras/keras.json"
    try:
        import keras
    except ImportError as error:  # Keras imports its backend at once; another one may not be installed.
        raise RuntimeError(f"keras does not import ({error}); {fix}") from error
    backend = keras.config.backend()
    if backend != "tensorflow":
        raise RuntimeError(f"{backend!r}, but {fix}")
    return backend


def check_devices() -> str:
    """Lists the devices that TensorFlow sees."""
    import tensorflow as tf

    names = []
    for device in tf.config.list_physical_devices():
        details = tf.config.experimental.get_device_details(device) if device.device_type == "GPU" else {}
        names.append(
            f"{device.name.removeprefix('/physical_device:')} {details.get('device_name', '')}".strip()
        )
    return f"{', '.join(names)}; {os.cpu_count()} cores"


def check_xla() -> str:
    """Compiles a small function and looks at its result."""
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def double(x: Any) -> Any:
        return x * 2.0

    if double(tf.constant(21.0)).numpy() != 42.0:
        raise RuntimeError("compiles, but computes something else")
    return "compiles"


def check_probability() -> str:
    """Imports TFP, which needs tf_keras beside it."""
    import tensorflow_probability as tfp

    tfp.distributions.Normal(0.0, 1.0)
    return "imports"


def check_datasets() -> str:
    """Imports TFDS."""
    import tensorflow_datasets as tfds

    return f"imports; data sets in {tfds.core.constants.DATA_DIR}"


def check_serving() -> str:
    """Looks for the client of TensorFlow Serving, without importing it."""
    if importlib.util.find_spec("tensorflow_serving") is None:
        raise RuntimeError(
            "not installed: pip install 'flowzoo[serving]' (only to call a server from Python)"
        )
    return f"tensorflow-serving-api {_version('tensorflow-serving-api') or 'of unknown version'}"


def check_home() -> str:
    """Looks whether the cache folder, or the nearest folder above it that exists, can be written."""
    from flowzoo import paths

    home = paths.home()
    existing = next((folder for folder in (home, *home.parents) if folder.exists()), home)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise RuntimeError(f"{home} cannot be written: set FLOWZOO_HOME to a folder that can")
    return f"{home} ({shutil.disk_usage(existing).free / 2**30:.1f} GiB free)"


def check_data() -> str:
    """Lists the folders in which data sets are looked for."""
    from flowzoo import paths

    states = [f"{folder}{'' if folder.is_dir() else ' (not there)'}" for folder in paths.data_dirs()]
    return ", ".join(states)


def check_entries() -> str:
    """Counts the named entries, and those whose weights lie on this machine."""
    from flowzoo import registry

    names = registry.list_models()
    if not names:
        raise RuntimeError("no entries found: the installation lacks zoo_configs")
    ready = registry.list_models(pretrained=True)
    return f"{len(names)} known, {len(ready)} with weights: {', '.join(ready) or 'none'}"


CHECKS: tuple[tuple[str, Callable[[], str], bool], ...] = (
    ("keras backend", check_backend, True),
    ("devices", check_devices, True),
    ("xla", check_xla, False),
    ("tfp", check_probability, True),
    ("tfds", check_datasets, True),
    ("serving client", check_serving, False),
    ("home", check_home, False),
    ("data folders", check_data, False),
    ("entries", check_entries, True),
)


def _guarded(name: str, function: Callable[[], str], required: bool) -> Check:
    try:
        return Check(name, True, function(), required)
    except Exception as error:  # Whatever is broken here is what the user asked to be told.
        return Check(name, False, str(error) or type(error).__name__, required)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
