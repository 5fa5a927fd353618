"""From a name to a model: every entry of the zoo, found through the registry."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import flowzoo
from flowzoo import registry, weights, zoo
from flowzoo.cli.loading import config_of
from flowzoo.data import open_source
from flowzoo.errors import CorruptWeightsError, DataError, NoWeightsError, UnknownNameError
from flowzoo.manifest import verify, write_manifest
from flowzoo.models import families
from flowzoo.models.continuous import ContinuousModel
from flowzoo.paths import packaged
from flowzoo.publish import TrainResult
from tests.models.flows import ALIKE
from tests.test_docs import PYTHON

ENTRIES = sorted({*registry.list_models(), *registry.list_models("test_*")})
TRAINED = [name for name in ENTRIES if registry.get_config(name).weights.sha256]
UNTRAINED = sorted({*ENTRIES} - {*TRAINED})
MIB = 2**20


def _slow_unless_tiny(name: str) -> object:
    """Drawing takes seconds to trace: by default there is one entry a family, tiny, that does it."""
    alike = name.removeprefix("test_") in ALIKE
    return name if name.startswith("test_") and not alike else pytest.param(name, marks=pytest.mark.slow)


# Splines, transformers and deep convolutions take half a minute for 500 digits, continuous flows for four.
MNIST = [name for name in TRAINED if registry.get_config(name).data.source == "mnist"]
LONG = ("nsf", "realnvp", "tarflow", "flow_matching")
# How many numbers an image of an entry has.
IMAGES = {
    name: int(np.prod(shape))
    for name in TRAINED
    if len(shape := registry.get_config(name).model.event_shape or ()) == 3 and not name.startswith("test_")
}


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setenv("FLOWZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FLOWZOO_BASE_URL", raising=False)


def _big(name: str) -> object:
    """The largest architectures take seconds to build: not by default."""
    big = "_imagenet" in name or name == "glow_cifar10"
    return pytest.param(name, marks=pytest.mark.slow) if big else name


@pytest.mark.parametrize("name", [_big(name) for name in UNTRAINED])
def test_every_entry_without_weights_builds(name: str) -> None:
    config = registry.get_config(name)
    shape = config.model.event_shape or (3,)
    flow = flowzoo.build(name, event_shape=shape)
    assert isinstance(flow, flowzoo.Flow) and flow.name == name
    assert flow.event_shape == shape
    assert flow.discrete == (config.card.metric == "bits_per_dim")


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_has_a_card(name: str) -> None:
    info = flowzoo.info(name)
    content = info.to_dict()
    json.dumps(content)
    text = str(info)
    assert name in text and content["limits"][0] in text and content["citation"][0] in text
    if name in TRAINED:
        measured = content["measured"]
        assert (
            measured["parameters"] > 0
            and measured["training"]["hardware"]
            and measured["versions"]["tensorflow"]
        )
        assert measured["metric"]["unit"] == content["metric"] and content["sha256"] in text
        assert abs(measured["metric"]["value"] - measured["metric"]["value_in_float32"]) < 2e-3
        assert measured["round_trip"]["largest_error"] < (
            0.5 if content["metric"] == "bits_per_dim" else 1e-3
        )
    else:
        assert f"flowzoo train {name}" in text


@pytest.mark.parametrize("name", [_slow_unless_tiny(name) for name in TRAINED])
def test_every_trained_entry_samples(name: str, load: Callable[[str], flowzoo.Flow]) -> None:
    flow = load(name)
    condition = 0 if flow.num_classes else None
    samples = np.asarray(flow.sample(4, condition, seed=0))
    assert samples.shape == (4, *flow.event_shape) and np.isfinite(samples.astype("float64")).all()
    assert np.isfinite(flow.log_prob(samples, condition)).all()


@pytest.fixture(scope="module")
def load() -> Callable[[str], flowzoo.Flow]:
    """Load an entry, once if two tests take it: tracing its density takes seconds."""
    kept: dict[str, flowzoo.Flow] = {}

    def load(name: str) -> flowzoo.Flow:
        flow = kept.get(name) or flowzoo.load(name)
        if name.startswith("test_") or name in MNIST and not name.startswith(LONG):
            kept[name] = flow
        return flow

    return load


def _not_alike() -> list[object]:
    """Entries of one architecture differ in their weights, all of which are verified: one is loaded.

    Of the images of a family one too: tracing each takes up to half a minute. What the README loads,
    tests/test_docs.py loads.
    """
    shown = {name for block in PYTHON for name in block.needs}
    seen: list[object] = []
    params = []
    for name in sorted(TRAINED, key=lambda name: IMAGES.get(name, 0)):
        model = registry.get_config(name).model
        alike = model.family if name in IMAGES else model
        params.append(pytest.param(name, marks=pytest.mark.slow if alike in seen or name in shown else ()))
        seen.append(alike)
    return params


@pytest.mark.parametrize("name", TRAINED)
def test_every_published_byte_is_the_one_that_the_config_names(name: str) -> None:
    digest = registry.get_config(name).weights.sha256
    folder = packaged("saved_models") / name
    assert verify(folder, digest, name).digest == digest
    assert (folder / "samples.png").stat().st_size > 1000


@pytest.mark.parametrize("name", _not_alike())
def test_every_trained_entry_loads(name: str, load: Callable[[str], flowzoo.Flow]) -> None:
    flow, config = load(name), registry.get_config(name)
    assert isinstance(flow, flowzoo.Flow) and flow.name == name
    assert flow.discrete == (config.card.metric == "bits_per_dim")
    folder = packaged("saved_models") / name
    assert zoo.check_golden(flow, folder) <= zoo.GOLDEN_TOLERANCE
    assert flow.adapted


def test_golden_values_are_compared_in_full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """With TensorFloat-32, which a GPU has on by default, sound weights would be refused."""
    enabled = tf.config.experimental.tensor_float_32_execution_enabled
    tf.config.experimental.enable_tensor_float_32_execution(True)
    flow, seen = flowzoo.load("test_nice"), []
    golden = type(flow).golden_log_prob
    monkeypatch.setattr(
        type(flow), "golden_log_prob", lambda *given: (seen.append(enabled()), golden(*given))[1]
    )
    zoo.check_golden(flow, packaged("saved_models") / "test_nice")
    assert seen == [False] and enabled()


@pytest.mark.gpu
@pytest.mark.parametrize("name", TRAINED)
def test_every_trained_entry_loads_on_a_gpu(name: str) -> None:
    assert tf.config.list_logical_devices("GPU")
    flow = flowzoo.load(name)
    folder = packaged("saved_models") / name
    assert zoo.check_golden(flow, folder) <= zoo.GOLDEN_TOLERANCE
    assert tf.config.experimental.tensor_float_32_execution_enabled()


@pytest.mark.parametrize("name", TRAINED)
def test_weights_are_no_larger_than_agreed(name: str) -> None:
    folder = packaged("saved_models") / name
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 32 * MIB


def test_the_zoo_is_no_larger_than_agreed() -> None:
    folder = packaged("saved_models")
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 121 * MIB


def test_every_family_has_a_tiny_trained_entry() -> None:
    assert {f"test_{family}" for family in families()} <= set(TRAINED)


def test_everything_trained_is_published() -> None:
    """A folder in saved_models without its hash in zoo_configs would be loaded without the chain of trust."""
    folders = {p.name for p in packaged("saved_models").iterdir() if p.is_dir()}
    assert folders == set(TRAINED)


DIGITS = [pytest.param(name, marks=pytest.mark.slow if name.startswith(LONG) else ()) for name in MNIST]


@pytest.mark.parametrize("name", DIGITS)
def test_the_measured_figure_holds_on_real_digits(name: str, load: Callable[[str], flowzoo.Flow]) -> None:
    """The card's bits/dim, on 500 of the 10,000 test digits, within five standard errors."""
    config = registry.get_config(name)
    try:
        source = open_source(config.data.source, "test", **config.data.options)
    except DataError as error:
        pytest.skip(f"no MNIST here: {str(error)[:80]}")
    metric = flowzoo.info(name).card["metric"]
    flow = load(name)
    num, few = (4, 2) if isinstance(flow, ContinuousModel) else (500, 50)
    x, condition = source.head(num)
    condition = condition if config.data.conditional else None
    bits = np.asarray(flow.bits_per_dim(x, condition))
    assert abs(bits.mean() - metric["value"]) < 5 * bits.std() / np.sqrt(num)
    few_conditions = None if condition is None else condition[:few]
    z = flow.to_latent(x[:few], few_conditions)
    assert np.array_equal(flow.from_latent(z, few_conditions), x[:few])


def test_moons_are_two() -> None:
    """Samples of realnvp_moons lie on the moons: most points are near one, and both are used."""
    flow = flowzoo.load("realnvp_moons")
    truth = open_source("moons", "test", num_examples=2000).x
    samples = np.asarray(flow.sample(2000, seed=0))
    near = np.min(np.linalg.norm(samples[:, None] - truth[None], axis=-1), axis=1)
    assert np.mean(near < 0.1) > 0.95
    back = np.min(np.linalg.norm(truth[:, None] - samples[None], axis=-1), axis=1)
    assert np.mean(back < 0.1) > 0.95


def test_build_by_family_and_with_overrides() -> None:
    flow = flowzoo.build("maf", event_shape=(4,), num_layers=2, condition_shape=(3,))
    assert flow.condition_shape == (3,)
    assert flowzoo.build("maf_tabular", event_shape=(21,)).event_shape == (21,)
    with pytest.raises(UnknownNameError, match="realnvp_mnist"):
        flowzoo.build("realnvp_mnits")
    with pytest.raises(ValueError, match="event_shape"):
        flowzoo.build("maf_tabular")
    with pytest.raises(TypeError, match="num_layer"):
        flowzoo.build("maf", event_shape=(4,), num_layer=2)
    with pytest.raises(TypeError, match="tuple"):
        flowzoo.build("maf", event_shape=4)


def test_load_says_what_is_wrong_with_a_name() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean"):
        flowzoo.load("realnvp_mnst")
    with pytest.raises(NoWeightsError, match="flowzoo train maf_tabular"):
        flowzoo.load("maf_tabular")
    for name in ("../realnvp_mnist", "", "REALNVP"):
        with pytest.raises(ValueError):
            flowzoo.load(name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A short training of an entry, for the tests that only read what it wrote."""
    out = tmp_path_factory.mktemp("trained")
    return flowzoo.train("test_maf", out=out, epochs=2, limit=500, seed=3, verbose=0)


def test_train_writes_what_load_reads(trained: TrainResult) -> None:
    folder = Path(trained.path)
    assert sorted(p.name for p in folder.iterdir()) == [
        "1",
        "SHA256SUMS",
        "card.json",
        "golden.npz",
        "samples.png",
    ]
    flow = flowzoo.load(f"path:{folder}")
    source = open_source("moons", "test")
    x, c = source.x[:500], source.condition[:500]
    np.testing.assert_allclose(-np.mean(flow.log_prob(x, c)), trained.loss, rtol=1e-4)
    assert np.array_equal(flow.log_prob(x, c), flowzoo.load("test_maf", source=folder).log_prob(x, c))
    assert weights.read_card(folder)["training"]["epochs"] == 2
    with pytest.raises(FileExistsError):
        flowzoo.train("test_maf", out=folder.parent, epochs=1, limit=100, overwrite=False, verbose=0)


@pytest.mark.slow
def test_a_folder_by_name_is_found_as_a_source_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the user's home, and with the same words where it is not there or is but a part of an entry."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").symlink_to(packaged("saved_models") / "test_maf")
    assert flowzoo.info("path:~/mine").name == "test_maf"
    assert config_of("path:~/mine").name == "test_maf"
    for ask in (flowzoo.info, flowzoo.load, config_of):
        with pytest.raises(NoWeightsError, match="Did you mean 'mine'"):
            ask("path:~/mien")
        with pytest.raises(NoWeightsError, match="give the folder above"):
            ask("path:~/mine/1")


def test_a_config_of_the_users_own_trains_and_loads_like_the_zoos(
    tmp_path: Path, trained: TrainResult
) -> None:
    config = registry.get_config("test_maf").model_dump(mode="json")
    config["name"], config["weights"]["sha256"] = "maf_mine", None
    flowzoo.register_config(config)
    assert "maf_mine" in flowzoo.list_models()
    again = flowzoo.train("maf_mine", out=tmp_path, epochs=2, limit=500, seed=3, verbose=0)
    assert again.loss == trained.loss and again.history == trained.history
    assert flowzoo.load(f"path:{again.path}").num_classes == 2


def test_train_fails_early_and_clearly(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="maf_tabular"):
        flowzoo.train("maf_tabular", out=tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(OSError):
        flowzoo.train("test_maf", out=blocked, epochs=1, verbose=0)
    with pytest.raises(ValueError, match="strategy takes"):
        flowzoo.train("test_maf", out=tmp_path, strategy="many", verbose=0)
    with pytest.raises(DataError, match="data_dir"):
        flowzoo.train("test_maf", out=tmp_path, data_dir=tmp_path, verbose=0)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    """Sound files that do not belong together: another architecture, other golden values."""
    folder = tmp_path / "test_maf"
    shutil.copytree(packaged("saved_models") / "test_maf", folder)
    card = json.loads((folder / "card.json").read_text())
    card["config"]["model"]["args"]["num_layers"] = 2
    (folder / "card.json").write_text(json.dumps(card))
    write_manifest(folder)
    with pytest.raises(CorruptWeightsError, match="do not fit"):
        flowzoo.load("test_maf", source=folder)
    shutil.copy(packaged("saved_models") / "test_maf" / "card.json", folder / "card.json")
    golden = dict(np.load(folder / "golden.npz"))
    golden["log_prob"] = golden["log_prob"] + 0.1
    np.savez(folder / "golden.npz", **golden)
    write_manifest(folder)
    with pytest.raises(CorruptWeightsError, match="another log_prob"):
        flowzoo.load("test_maf", source=folder)
