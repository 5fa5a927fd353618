"""The five tables on which papers compare flows: POWER, GAS, HEPMASS, MINIBOONE and BSDS300.

They are prepared as Papamakarios et al. (2017), https://arxiv.org/abs/1705.07057, appendix D.1 say: the same
columns, splits, noise and scaling, so that nats can be compared with published ones. The prepared files are
at https://zenodo.org/records/1161203; nothing here reads a pickle, so GAS is read from the UCI's own text.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.arrays import read_npy
from flowzoo.data.catalog import register_source
from flowzoo.data.files import find_file, missing, search_folders
from flowzoo.data.frames import read_csv
from flowzoo.data.source import Source
from flowzoo.data.tables import numbers
from flowzoo.data.values import check_finite
from flowzoo.errors import DataError

ZENODO = "The prepared files are in data.tar.gz of https://zenodo.org/records/1161203."
_table = partial(register_source, kind="table", licence="CC BY 4.0 (UCI)")
Splits = dict[str, np.ndarray]


def _file(what: str, names: list[str], folder: str, data_dir: Path | None, get_it: str = ZENODO) -> Path:
    folders = search_folders(data_dir, [folder], top=False)
    path = find_file(names, folders)
    if path is None:
        raise missing(what, " or ".join(names), folders, f"{get_it} Keep the name of the folder, {folder}.")
    return path


def _array(path: Path, columns: int) -> np.ndarray:
    try:
        x = read_npy(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as NPY: {error}") from error
    if x.dtype.kind not in "fiu" or x.ndim != 2 or x.shape[1] != columns:
        raise DataError(f"{path}: must be numbers [N, {columns}]. Received: {x.dtype} of shape {x.shape}")
    x = x.astype(np.float64)
    check_finite(x, str(path))
    return x


def _last_parts(x: np.ndarray, where: str) -> Splits:
    """Return the last tenth as test, the last tenth of the rest as validation, and the rest."""
    test = int(0.1 * len(x))
    validation = int(0.1 * (len(x) - test))
    if validation < 1:
        raise DataError(f"{where}: {len(x)} rows are too few to split.")
    rest = len(x) - test - validation
    return {"train": x[:rest], "validation": x[rest : rest + validation], "test": x[rest + validation :]}


def _scaled(splits: Splits, split: str, by: np.ndarray, where: str, ddof: int = 0) -> Source:
    mean, sd = by.mean(axis=0), by.std(axis=0, ddof=ddof)
    if not (sd > 0).all():
        raise DataError(f"{where}: the columns {np.flatnonzero(~(sd > 0)).tolist()} do not vary.")
    return Source(x=numbers((splits[split] - mean) / sd, where), origin=where)


def _power_example(folder: Path) -> Mapping[str, Any]:
    (folder / "power").mkdir()
    np.save(folder / "power" / "data.npy", np.random.RandomState(0).normal(size=(200, 8)).round(2))
    return {"data_dir": folder}


@_table("power", origin="Individual household electric power consumption, UCI", example=_power_example)
def power(split: str, *, data_dir: Path | None = None) -> Source:
    """POWER: 2,049,280 minutes of a household's electricity, six columns.

    The rows are shuffled, two columns that others determine are left out, and uniform noise as wide as the
    rounding is added to all but the time of day: 0.001 kW, 0.01 V, 1 Wh.

    Args:
        split: Which split.
        data_dir: The folder that holds `power/data.npy`; by default the data folders.
    """
    path = _file("POWER", ["data.npy"], "power", data_dir)
    x = _array(path, 8)
    random = np.random.RandomState(42)  # the seed of the published splits, and the order of the draws
    random.shuffle(x)
    x = x[:, [0, 2, 4, 5, 6, 7]]
    x[:, 1] += 0.01 * random.rand(len(x))
    x[:, 0] += 0.001 * random.rand(len(x))
    x[:, 2:5] += random.rand(len(x), 3)
    splits = _last_parts(x, str(path))
    return _scaled(splits, split, np.concatenate([splits["train"], splits["validation"]]), str(path))


def _gas_example(folder: Path) -> Mapping[str, Any]:
    (folder / "gas").mkdir()
    random = np.random.RandomState(0)
    sensors = random.normal(size=(800, 16))
    sensors[:, 3] = sensors[:, 2] + 0.01 * sensors[:, 3]
    rows = np.concatenate([np.arange(800)[:, None] / 100, random.rand(800, 2), sensors], axis=1)
    head = "Time (seconds), CO conc (ppm), Ethylene conc (ppm), sensor readings (16 channels)"
    np.savetxt(folder / "gas" / "ethylene_CO.txt", rows, fmt="%.4f", header=head, comments="")
    return {"data_dir": folder}


@_table(
    "gas", origin="Gas sensor array under dynamic gas mixtures, ethylene and CO, UCI", example=_gas_example
)
def gas(split: str, *, data_dir: Path | None = None) -> Source:
    """GAS: sixteen chemical sensors in mixtures of ethylene and CO, without columns that repeat others.

    Of each two sensors with a correlation above 0.98 the first is left out, which leaves eight in the whole
    file. Every fourth row of the UCI's text is taken: the published table has a quarter of its rows. Whether
    they are the same rows could not be checked, since the published file is a pickle.

    Args:
        split: Which split.
        data_dir: The folder that holds `gas/ethylene_CO.txt`; by default the data folders.
    """
    get_it = (
        "It is in the archive of https://archive.ics.uci.edu/dataset/322 (gas sensor array under dynamic "
        "gas mixtures)."
    )
    path = _file("GAS", ["ethylene_CO.txt"], "gas", data_dir, get_it)
    x = _text_table(path, 19)[::4, 3:]
    while x.shape[1]:
        twins = (np.corrcoef(x, rowvar=False).reshape(x.shape[1], -1) > 0.98).sum(axis=1) > 1
        if not twins.any():
            break
        x = np.delete(x, int(np.argmax(twins)), axis=1)
    return _scaled(_last_parts(x, str(path)), split, x, str(path), ddof=1)


def _text_table(path: Path, columns: int) -> np.ndarray:
    frame = read_csv(path, sep=r"\s+", header=None, skiprows=1, dtype=np.float64)
    if frame.shape[1] != columns:
        raise DataError(f"{path}: must have {columns} columns. Received: {frame.shape[1]}")
    check_finite(frame.to_numpy(), str(path))
    return frame.to_numpy()


def _hepmass_example(folder: Path) -> Mapping[str, Any]:
    (folder / "hepmass").mkdir()
    random = np.random.RandomState(0)
    names = ["# label", *(f"f{i}" for i in range(5)), "mass"]
    for part, extra in (("train", 0), ("test", 1)):
        size = 120 if extra else 400
        x = random.normal(size=(size, len(names) - 1 + extra))
        x[:50, 1] = -4.0
        rows = np.concatenate([(np.arange(size) % 2)[:, None], x], axis=1)
        header = ",".join([*names, *["extra"][:extra]])
        np.savetxt(folder / "hepmass" / f"1000_{part}.csv", rows, "%.6f", ",", header=header, comments="")
    return {"data_dir": folder}


@_table("hepmass", origin="HEPMASS, UCI", example=_hepmass_example)
def hepmass(split: str, *, data_dir: Path | None = None) -> Source:
    """HEPMASS: collisions that made a particle of mass 1000, 21 columns.

    Background events are left out, and so is every column whose smallest value occurs more than five times in
    the training file, and the column that the test file alone has. The last tenth of the training file is the
    validation split.

    Args:
        split: Which split.
        data_dir: The folder that holds `hepmass/1000_train.csv` and `hepmass/1000_test.csv`; by default the
            data folders.
    """
    paths = [_file("HEPMASS", [f"1000_{part}.csv"], "hepmass", data_dir) for part in ("train", "test")]
    train, test = _signal(paths[0]), _signal(paths[1])[:, :-1]
    if train.shape[1] != test.shape[1]:
        raise DataError(f"{paths[1]}: must have one column more than {paths[0].name}.")
    kept = (train == train.min(axis=0)).sum(axis=0) <= 5
    rest = len(train) - int(0.1 * len(train))
    splits = {"train": train[:rest], "validation": train[rest:], "test": test}
    splits = {name: x[:, kept] for name, x in splits.items()}
    return _scaled(splits, split, train[:, kept], str(paths[0].parent), ddof=1)


def _signal(path: Path) -> np.ndarray:
    rows = read_csv(path, index_col=False, dtype=np.float64).to_numpy()
    check_finite(rows, str(path))
    rows = rows[rows[:, 0] == 1, 1:]
    if len(rows) < 20:
        raise DataError(f"{path}: {len(rows)} rows of class 1 are too few.")
    return rows


def _miniboone_example(folder: Path) -> Mapping[str, Any]:
    (folder / "miniboone").mkdir()
    np.save(folder / "miniboone" / "data.npy", np.random.RandomState(0).normal(size=(150, 43)))
    return {"data_dir": folder}


@_table("miniboone", origin="MiniBooNE particle identification, UCI", example=_miniboone_example)
def miniboone(split: str, *, data_dir: Path | None = None) -> Source:
    """MINIBOONE: 36,488 neutrino events, 43 columns.

    Args:
        split: Which split.
        data_dir: The folder that holds `miniboone/data.npy`; by default the data folders.
    """
    path = _file("MINIBOONE", ["data.npy"], "miniboone", data_dir)
    splits = _last_parts(_array(path, 43), str(path))
    return _scaled(splits, split, np.concatenate([splits["train"], splits["validation"]]), str(path))


def _bsds300_example(folder: Path) -> Mapping[str, Any]:
    import h5py

    (folder / "BSDS300").mkdir()
    with h5py.File(folder / "BSDS300" / "BSDS300.hdf5", "w") as file:
        for number, (name, rows) in enumerate((("train", 80), ("validation", 20), ("test", 30))):
            file[name] = np.random.RandomState(number).normal(size=(rows, 63))
    return {"data_dir": folder}


@register_source(
    "bsds300",
    kind="table",
    licence="non-commercial research and education only",
    origin="Berkeley Segmentation Dataset, patches by Zoran & Weiss; prepared by Uria et al.",
    example=_bsds300_example,
)
def bsds300(split: str, *, data_dir: Path | None = None) -> Source:
    """BSDS300: patches of 8 by 8 grey pixels without their mean and last pixel, 63 columns, as they come.

    Args:
        split: Which split.
        data_dir: The folder that holds `BSDS300/BSDS300.hdf5`; by default the data folders.
    """
    import h5py

    path = _file("BSDS300", ["BSDS300.hdf5"], "BSDS300", data_dir)
    try:
        with h5py.File(path, "r") as file:
            x = np.asarray(file[split])
    except (OSError, KeyError) as error:
        raise DataError(
            f"{path}: cannot be read as HDF5 with the sets train, validation, test: {error}"
        ) from error
    if x.ndim != 2 or x.shape[1] != 63:
        raise DataError(f"{path}, {split}: must be [N, 63]. Received: {x.shape}")
    return Source(x=numbers(x, f"{path}, {split}"), origin=str(path))
