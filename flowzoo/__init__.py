"""flowzoo: a zoo of normalizing flows for Keras 3 and TensorFlow.

    import flowzoo

    model = flowzoo.load("realnvp_mnist")       # a Keras model with trained weights
    model.log_prob(x), model.sample(16)

    model = flowzoo.build("maf_tabular", event_shape=(21,))
    model.compile("adam")
    model.fit(table, epochs=20)

Names are loaded when they are first used: `import flowzoo` costs nothing, TensorFlow comes later.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from flowzoo import data, distributions, latents, layers, models, networks
    from flowzoo.exporting import export
    from flowzoo.layers.base import FlowLayer
    from flowzoo.models.base import Flow
    from flowzoo.registry import list_models, register_config
    from flowzoo.trainer import train
    from flowzoo.zoo import build, info, load

# Public name to the module that has it; None: the name is a module itself.
_PUBLIC = {
    "Flow": "flowzoo.models",
    "FlowLayer": "flowzoo.layers",
    "build": "flowzoo.zoo",
    "data": None,
    "distributions": None,
    "export": "flowzoo.exporting",
    "info": "flowzoo.zoo",
    "latents": None,
    "layers": None,
    "list_models": "flowzoo.registry",
    "load": "flowzoo.zoo",
    "models": None,
    "networks": None,
    "register_config": "flowzoo.registry",
    "train": "flowzoo.trainer",
}

__all__ = [
    "Flow",
    "FlowLayer",
    "build",
    "data",
    "distributions",
    "export",
    "info",
    "latents",
    "layers",
    "list_models",
    "load",
    "models",
    "networks",
    "register_config",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'flowzoo' has no attribute {name!r}")
    module = _PUBLIC[name]
    if module is None:
        return importlib.import_module(f"flowzoo.{name}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
