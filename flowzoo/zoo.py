"""From a name to a model: build it, load its weights, tell what it is."""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowzoo import manifest, registry, weights
from flowzoo.config import EntryConfig, ModelConfig, check_name
from flowzoo.errors import CorruptWeightsError, UnknownNameError, near_matches

if TYPE_CHECKING:
    from flowzoo.models import Flow

_log = logging.getLogger(__name__)

# Float32 sums in another order, on another machine, move a log_prob by about 1e-6 of itself.
GOLDEN_TOLERANCE = 1e-4


def build(name: str, /, event_shape: Any = None, **overrides: Any) -> Flow:
    """Build an untrained flow: the architecture of an entry, or a family with its defaults.

    Args:
        name: an entry (`"maf_tabular"`) or a family (`"maf"`).
        event_shape: shape of one example; may be left out where the entry fixes it.
        **overrides: arguments of the family's constructor that replace the entry's (condition_shape,
            num_classes, dtype and name, of the model, included). `dtype` may be the name of a mixed policy,
            "mixed_bfloat16" say: hidden layers of networks compute by it, all else in the dtype of weights.

    Returns:
        A Keras model with fresh weights, ready for `compile` and `fit`.

    Raises:
        UnknownNameError: neither an entry nor a family has the name.
        ValueError: no event_shape is known, or an argument is out of range.
        TypeError: the family knows no such argument.
    """
    from flowzoo.models import families

    if name in families():
        return _make(ModelConfig(family=name, event_shape=None), name, event_shape, overrides)
    try:
        config = registry.get_config(name)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error} Families: {', '.join(sorted(families()))}.") from None
    return _make(config.model, name, event_shape, overrides)


def build_config(config: ModelConfig, name: str, event_shape: tuple[int, ...] | None = None) -> Flow:
    """Build the untrained flow that a config describes; errors as `build`.

    Args:
        config: family and arguments.
        name: of the flow.
        event_shape: shape of one example, where the config leaves it open.
    """
    return _make(config, name, event_shape, {})


def _make(config: ModelConfig, name: str, event_shape: Any, overrides: dict[str, Any]) -> Flow:
    from flowzoo.models import families
    from flowzoo.models.dtypes import as_dtype

    known = families()
    if config.family not in known:
        hint = near_matches(config.family, known)
        raise ValueError(
            f"{name}: model.family is one of {', '.join(sorted(known))}. Received: {config.family!r}{hint}"
        )
    event_shape = config.event_shape if event_shape is None else event_shape
    if event_shape is None:
        raise ValueError(
            f"{name} takes data of any shape: pass event_shape=, (number of columns,) for a table."
        )
    if isinstance(event_shape, int):
        raise TypeError(f"event_shape takes a tuple: ({event_shape},) for a vector. Received: {event_shape}")
    arguments = {"name": name, **config.args}
    for key in ("condition_shape", "num_classes"):
        if getattr(config, key) is not None:
            arguments[key] = getattr(config, key)
    arguments |= overrides
    _check_arguments(known[config.family], arguments)
    with as_dtype(arguments.get("dtype")) as dtype:
        return known[config.family](event_shape=tuple(event_shape), **{**arguments, "dtype": dtype})


def _check_arguments(family: type[Flow], arguments: dict[str, Any]) -> None:
    accepted = [p.name for p in inspect.signature(family).parameters.values() if p.kind is not p.VAR_KEYWORD]
    accepted = [*accepted[1:], "name", "dtype"]
    for key in arguments:
        if key not in accepted:
            raise TypeError(
                f"{arguments['name']}: {family.__name__} takes {', '.join(accepted)}. Received: "
                f"{key}={arguments[key]!r}{near_matches(key, accepted)}"
            )


def load(name: str, *, source: str | os.PathLike[str] | None = None, dtype: Any = None) -> Flow:
    """Load a pretrained flow.

    Its weights are looked for at `source` if given, else in the folder $FLOWZOO_HOME/models, then among those
    that come with flowzoo, then at $FLOWZOO_BASE_URL. The SHA-256 of every file is verified, and the model
    must give, in float32, the log_prob that was written down when the weights were made.

    Args:
        name: an entry of `list_models(pretrained=True)`, or `"path:DIR"` for a folder that `train` wrote.
        source: `"path:DIR"` or a PathLike: a folder with weights of the entry.
        dtype: what the flow computes in, "float32", "float64", or "mixed_bfloat16" for hidden layers in
            bfloat16 (faster on GPUs; of log_prob and samples two digits are right); None takes Keras's global
            dtype policy.

    Returns:
        A Keras model.

    Raises:
        UnknownNameError: no entry has the name.
        ValueError: there is no such `dtype`.
        NoWeightsError: the entry has no weights here or anywhere; the message says how to train it.
        CorruptWeightsError: the weights are changed, incomplete, or another entry's.
        DownloadError: they could not be downloaded.
    """
    from flowzoo.models.dtypes import as_policy

    policy = as_policy(dtype)
    if source is None and isinstance(name, str) and name.startswith("path:"):
        source = name
        name = _name_in(weights.folder_of(name))
        digest, has_data = None, True
    else:
        config = registry.get_config(name)
        digest, has_data = config.weights.sha256, config.data is not None
    located = weights.locate(name, expected_digest=digest, source=source, has_data=has_data)
    _log.info("loading %s from %s", name, located.folder)
    return in_policy(restore(located.folder), policy.name)


def in_policy(model: Flow, policy: str) -> Flow:
    """Return a flow of float32, or one of the same weights that computes by another policy."""
    if policy == "float32":
        return model
    other = type(model).from_config({**model.get_config(), "dtype": policy})
    other.set_weights([w.astype(v.dtype) for w, v in zip(model.get_weights(), other.weights, strict=True)])
    return other


def _name_in(folder: Path) -> str:
    card = weights.read_card(folder)
    return str(card.get("name", folder.name))


def restore(folder: Path) -> Flow:
    """Make the model of an artifact folder that was verified, and compare it with the golden log_prob.

    It computes in float32, as when it was made, whatever the global dtype policy is.

    Raises:
        CorruptWeightsError: the weights do not fit the model or do not give the golden log_prob.
    """
    from flowzoo.models.dtypes import dtype_policy

    card: Any = weights.read_card(folder)
    try:
        check_name(card["name"])
        config = ModelConfig.model_validate_json(json.dumps(card["config"]["model"]))
        with dtype_policy("float32"):
            model = _make(config, card["name"], None, {})
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptWeightsError(f"{folder}: its card describes no model: {error!r}") from error
    arrays = weights.read_variables(folder / "1")
    shapes = [tuple(array.shape) for array in arrays]
    if shapes != [tuple(weight.shape) for weight in model.weights]:
        raise CorruptWeightsError(
            f"The weights in {folder} do not fit the model of {card['name']}: {len(shapes)} arrays for "
            f"{len(model.weights)} weights, or other shapes. They were made by another version of flowzoo."
        )
    if not all(np.issubdtype(array.dtype, np.number) or array.dtype.kind in "Vb" for array in arrays):
        raise CorruptWeightsError(f"The weights in {folder} are no numbers.")  # V: bfloat16
    model.set_weights(
        [array.astype(weight.dtype) for array, weight in zip(arrays, model.weights, strict=True)]
    )
    check_golden(model, folder)
    return model


def check_golden(model: Flow, folder: Path) -> float:
    """Compare a model with the log_prob that was written down for a few inputs.

    Returns:
        The largest difference, relative to 1 + |log_prob|.

    Raises:
        CorruptWeightsError: it is above `GOLDEN_TOLERANCE`.
    """
    from flowzoo.full_float32 import full_float32

    golden = weights.read_golden(folder)
    try:
        expected = golden["log_prob"].astype(np.float64)
        with full_float32():
            got = np.asarray(model.golden_log_prob(golden["x"], golden.get("condition")), np.float64)
    except (KeyError, TypeError, ValueError, FloatingPointError) as problem:
        raise CorruptWeightsError(
            f"{model.name}: the golden values in {folder} do not fit it: {problem}"
        ) from problem
    if got.shape != expected.shape or not got.size:
        raise CorruptWeightsError(f"{model.name}: the golden values in {folder} are not one an example.")
    error = float(np.max(np.abs(got - expected) / (1 + np.abs(expected))))
    if not error <= GOLDEN_TOLERANCE:
        raise CorruptWeightsError(
            f"{model.name} loaded from {folder} gives another log_prob than when it was made (relative "
            f"difference {error:.1e}, at most {GOLDEN_TOLERANCE:.0e}). Reinstall flowzoo, or report this."
        )
    return error


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """The model card of an entry.

    Attributes:
        name: of the entry.
        config: what people wrote: architecture, data, recipe, limits, citation.
        card: what was measured when the weights were made; None while there are none.
        sha256: of the published weights (their SHA256SUMS file); None while there are none.
        folder: where the weights lie on this machine, if they do.
    """

    name: str
    config: EntryConfig
    card: dict[str, Any] | None
    sha256: str | None
    folder: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return the card as plain JSON values, each published figure with its difference."""
        from flowzoo.cards import compared

        config = self.config.model_dump(mode="json")
        measured = {key: value for key, value in (self.card or {}).items() if key != "config"}
        return {
            "name": self.name,
            "description": self.config.description,
            "pretrained": self.sha256 is not None or self.card is not None,
            "sha256": self.sha256,
            "folder": self.folder,
            **config["card"],
            "published": compared(measured.get("metric"), config["card"]["published"]),
            "model": config["model"],
            "data": config["data"],
            "recipe": config["training"],
            "weights_dtype": config["weights"]["dtype"],
            "measured": measured or None,
        }

    def __str__(self) -> str:
        from flowzoo.cards import card_text

        return card_text(self.to_dict())


def info(name: str) -> ModelInfo:
    """Return the model card of an entry.

    Args:
        name: of the entry, or `"path:DIR"` for a folder that `train` wrote.

    Returns:
        The card; `print` shows it, `to_dict()` gives it as plain values.

    Raises:
        UnknownNameError: no entry has the name.
        NoWeightsError: there is no such folder.
        CorruptWeightsError: the folder has no card.
    """
    if isinstance(name, str) and name.startswith("path:"):
        folder = weights.folder_of(name)
        found: Path | None = folder
        config = weights.config_in(folder)
    else:
        config, local = registry.get_config(name), weights.find_local(name)
        found = local[0] if local else None
    card: Any = weights.read_card(found) if found else None
    digest = config.weights.sha256
    if digest is None and found:
        digest = manifest.sha256_of(found / "SHA256SUMS")
    return ModelInfo(config.name, config, card, digest, str(found) if found else None)
