"""The small data sets that scikit-learn carries inside its package: nothing to fetch."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from flowzoo.data.catalog import register_source
from flowzoo.data.options import Part, Seed
from flowzoo.data.source import Source
from flowzoo.data.splits import split_rows

_uci_source = partial(register_source, kind="sklearn", licence="CC BY 4.0")


def _loaded(name: str) -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")(return_X_y=True)


def _classes(name: str, split: str, division: dict[str, Any]) -> Source:
    x, y = _loaded(name)
    rows = split_rows(len(x), split, where=name, **division)
    labels = y.astype(np.int32)
    return Source(x=x.astype(np.float32)[rows], condition=labels[rows], num_classes=int(np.max(labels)) + 1)


@_uci_source("digits", origin="UCI optical recognition of handwritten digits (its test part)")
def digits(split: str, *, split_seed: Seed = 0, validation: Part = 0.1, test: Part = 0.1) -> Source:
    """1,797 handwritten digits of 8 by 8 pixels with the values 0 to 16; the label is the digit."""
    x, y = _loaded("digits")
    rows = split_rows(len(x), split, seed=split_seed, validation=validation, test=test, where="digits")
    images = x.reshape(-1, 8, 8, 1).astype(np.uint8)
    return Source(x=images[rows], condition=y.astype(np.int32)[rows], num_values=17, num_classes=10)


@_uci_source("iris", origin="Fisher 1936, from UCI")
def iris(split: str, *, split_seed: Seed = 0, validation: Part = 0.1, test: Part = 0.1) -> Source:
    """150 irises, four measures in centimetres; the label is the species."""
    return _classes("iris", split, {"seed": split_seed, "validation": validation, "test": test})


@_uci_source("wine", origin="Forina et al. 1988, from UCI")
def wine(split: str, *, split_seed: Seed = 0, validation: Part = 0.1, test: Part = 0.1) -> Source:
    """178 wines, thirteen chemical measures; the label is the cultivar."""
    return _classes("wine", split, {"seed": split_seed, "validation": validation, "test": test})


@_uci_source("breast_cancer", origin="Wolberg, Street, Mangasarian 1993, from UCI")
def breast_cancer(split: str, *, split_seed: Seed = 0, validation: Part = 0.1, test: Part = 0.1) -> Source:
    """569 tumours, thirty measures of their cell nuclei; the label is 0 for malignant, 1 for benign."""
    return _classes("breast_cancer", split, {"seed": split_seed, "validation": validation, "test": test})


@register_source(
    "diabetes", kind="sklearn", licence="not stated", origin="Efron, Hastie, Johnstone, Tibshirani 2004"
)
def diabetes(split: str, *, split_seed: Seed = 0, validation: Part = 0.1, test: Part = 0.1) -> Source:
    """442 patients, ten scaled measures; the condition is the disease's progression after a year."""
    x, y = _loaded("diabetes")
    rows = split_rows(len(x), split, seed=split_seed, validation=validation, test=test, where="diabetes")
    return Source(x=x.astype(np.float32)[rows], condition=y.astype(np.float32)[rows, None])
