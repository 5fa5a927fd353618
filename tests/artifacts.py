"""Folders of trained entries for the tests of weights: the real thing in small, made in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from flowzoo.weights import write_manifest


def make_artifact(root: Path, name: str = "maf_moons", *, seed: int = 0) -> tuple[Path, str]:
    """Writes `<root>/<name>/` with every file an entry has, and returns it with its digest."""
    rng = np.random.default_rng(seed)
    folder = root / name
    (folder / "1" / "variables").mkdir(parents=True)
    (folder / "1" / "assets").mkdir()  # empty, as tf.saved_model.save leaves it
    (folder / "1" / "saved_model.pb").write_bytes(rng.bytes(2000))
    (folder / "1" / "fingerprint.pb").write_bytes(rng.bytes(60))
    (folder / "1" / "variables" / "variables.index").write_bytes(rng.bytes(300))
    (folder / "1" / "variables" / "variables.data-00000-of-00001").write_bytes(rng.bytes(5000))
    (folder / "samples.png").write_bytes(rng.bytes(700))
    (folder / "card.json").write_text(json.dumps({"name": name, "seed": seed}))
    np.savez(folder / "golden.npz", x=rng.normal(size=(4, 2)), log_prob=rng.normal(size=4))
    return folder, write_manifest(folder)


def tree(folder: Path) -> dict[str, bytes]:
    """Returns the content of every file below a folder, to compare before and after."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
