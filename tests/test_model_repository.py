"""What a server reads besides the graph: warm-up requests, configuration files, the names of operations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2

import flowzoo
from flowzoo.layers.base import FlowLayer, constant_log_det
from flowzoo.layers.preprocessing import Dequantize
from flowzoo.models import Flow, FlowMatching
from flowzoo.models.signatures import SIGNATURES
from flowzoo.serving import ops, repository, warmup
from tests import c_host
from tests.models.flows import shared
from tests.serving_protos import BatchingParameters, MonitoringConfig

NAMES = {"serving_default", *SIGNATURES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of two versions, one of them labelled images; the last version for merged requests."""
    root = tmp_path_factory.mktemp("repository")
    flow = Flow([Dequantize(4)], (2, 2, 1), num_classes=3)
    flowzoo.export(flow, root, name="images")
    flowzoo.export(flow, root, name="images", version=7, warmup_batch_sizes=(1, 3), batching=True)
    flowzoo.export(Flow([], (2,)), root, name="plain")
    return root


def logs(saved_model: Path) -> list[Any]:
    prediction_log = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    path = saved_model / "assets.extra" / "tf_serving_warmup_requests"
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    found = [prediction_log.PredictionLog.FromString(record) for record in records]
    assert [log.SerializeToString(deterministic=True) for log in found] == records  # byte for byte
    return [log.predict_log.request for log in found]


@pytest.mark.parametrize("name", ["images", "plain"])
def test_warm_up_requests_are_answered(name: str, folder: Path, tmp_path: Path) -> None:
    """Read with TensorFlow Serving's own messages, and replayed by its loader."""
    requests = logs(folder / name / "1")
    assert {request.model_spec.name for request in requests} == {name}
    assert len(requests) == 2 * len(NAMES) <= warmup.MOST_RECORDS
    assert {request.model_spec.signature_name for request in requests} == NAMES
    calls = [
        (r.model_spec.signature_name, {k: tf.make_ndarray(v) for k, v in r.inputs.items()}) for r in requests
    ]
    replies, _ = c_host.run(folder / name / "1", calls, tmp_path)
    sizes: dict[str, set[int]] = {}
    for (signature, _), reply in zip(calls, replies, strict=True):
        assert reply.code == 0, reply.message
        assert all(np.isfinite(value.astype("float64")).all() for value in reply.outputs.values())
        sizes.setdefault(signature, set()).update(len(value) for value in reply.outputs.values())
    assert sizes == {signature: {1, 32} for signature in NAMES}


def test_what_cannot_be_merged_is_not_warmed_up(folder: Path) -> None:
    """A server refuses a version whose warm-up fails, and merges no inputs without a batch dimension."""
    requests = logs(folder / "images" / "7")
    assert {r.model_spec.signature_name for r in requests} == NAMES - {"sample", "sample_and_log_prob"}
    for request in requests:
        sizes = {tensor.tensor_shape.dim[0].size for tensor in request.inputs.values()}
        assert len(sizes) == 1 and sizes <= {1, 3}
    text = (folder / "images" / "7" / "batching_params.pbtxt").read_text()
    assert text_format.Parse(text, BatchingParameters()).max_execution_batch_size.value == 128
    assert not (folder / "images" / "1" / "batching_params.pbtxt").exists()


def test_the_files_of_the_server(folder: Path) -> None:
    config_pb2 = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    assert repository.write_repository(folder, "/models/") == {"images": [1, 7], "plain": [1]}
    read = text_format.Parse((folder / "models.config").read_text(), config_pb2.ModelServerConfig())
    images, plain = read.model_config_list.config
    assert (images.name, images.base_path) == ("images", "/models/images")
    assert images.model_platform == "tensorflow"
    assert list(images.model_version_policy.specific.versions) == [1, 7]
    assert dict(images.version_labels) == {"stable": 1, "canary": 7}
    assert list(plain.model_version_policy.specific.versions) == [1]
    assert dict(plain.version_labels) == {"stable": 1}
    batching = text_format.Parse((folder / "batching_parameters.txt").read_text(), BatchingParameters())
    assert batching.max_batch_size.value >= batching.max_execution_batch_size.value > 0
    assert batching.enable_large_batch_splitting.value and not batching.allowed_batch_sizes
    monitoring = text_format.Parse((folder / "monitoring.config").read_text(), MonitoringConfig())
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"


@pytest.mark.parametrize(
    ("options", "policy", "labels"),
    [
        ({"keep": 1}, "specific { versions: 12 }", {"stable": 12}),
        ({"keep": 3}, "specific { versions: 2 versions: 10 versions: 12 }", {"stable": 10, "canary": 12}),
        ({"follow": True}, "latest { num_versions: 2 }", {}),
    ],
)
def test_which_versions_are_served(options: dict, policy: str, labels: dict) -> None:
    config_pb2 = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    text = repository.models_config({'na"me\\': [10, 2, 12, 1]}, "/mod els/ü", **options)
    (config,) = text_format.Parse(text, config_pb2.ModelServerConfig()).model_config_list.config
    assert config.name == 'na"me\\' and config.base_path == '/mod els/ü/na"me\\'
    want = text_format.Parse(policy, type(config.model_version_policy)())
    assert config.model_version_policy == want
    assert dict(config.version_labels) == labels


def test_stable_stays_where_it_was_put(tmp_path: Path) -> None:
    """A new version is the canary; a rollback by hand outlives the next files, and its version is served."""

    def write(*versions: int, keep: int = 2) -> str:
        for version in versions:
            (tmp_path / "a" / str(version)).mkdir(parents=True)
            (tmp_path / "a" / str(version) / "saved_model.pb").touch()
        repository.write_repository(tmp_path, keep=keep)
        return (tmp_path / "models.config").read_text()

    write(1)
    text = write(2, 3)
    assert write(keep=1) == text
    assert repository.labels_in(tmp_path / "models.config") == {"a": {"stable": 1, "canary": 3}}
    assert "specific { versions: 1 versions: 3 }" in text and 'key: "canary" value: 3' in text
    (tmp_path / "models.config").write_text(text.replace('"stable" value: 1', '"stable" value: 3'))
    assert 'key: "stable" value: 3' in write(4)
    by_hand = 'version_labels { key: "prod" value: 2 } version_labels { key: "gone" value: 9 } }'
    start, _, end = (tmp_path / "models.config").read_text().rpartition("  }\n")
    (tmp_path / "models.config").write_text(f"{start}{by_hand}\n{end}")
    text = write(keep=1)
    assert "specific { versions: 2 versions: 3 versions: 4 }" in text and 'key: "prod" value: 2' in text
    assert "gone" not in text and write(keep=1) == text
    (tmp_path / "models.config").write_text("model_config_list { config { name: 3 }")
    with pytest.raises(ValueError, match=r"models.config is no models.config"):
        write()


def test_a_models_config_may_be_written_in_any_way(tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    config.write_text(
        """# c
        model_config_list: < config { name: 'a' "b" base_path: "/x\\303\\274\\"y" ; # d }
        version_labels { key: "stable", value: 7 } model_version_policy { specific { versions: [1, 7] } } },
        config: [{ base_path: "/z" name: "c" }] >"""
    )
    found = [(model.name, model.base_path) for model in repository.configured(config)]
    assert found == [("ab", '/xü"y'), ("c", "/z")]
    assert repository.labels_in(config) == {"ab": {"stable": 7}, "c": {}}
    written = repository.models_config({'na"me\\ü': [1]}, "/mod els")
    config.write_text(written)
    assert repository.configured(config)[0].base_path == '/mod els/na"me\\ü'


def test_a_folder_holds_what_a_server_would_find(tmp_path: Path) -> None:
    for path in ("a/1", "a/02", "a/x", "a/.3.part", "b/5", "c"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "saved_model.pb").touch()
    (tmp_path / "a" / "9").mkdir()
    assert repository.exported_models(tmp_path) == {"a": [1], "b": [5]}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="No exported model"):
        repository.write_repository(tmp_path / "empty")
    with pytest.raises(ValueError, match="keep takes"):
        repository.models_config({"a": [1]}, "/models", keep=0)


def test_the_command_names_files_that_are_there(folder: Path) -> None:
    repository.write_repository(folder)
    command = repository.server_command(folder)
    flags = dict(part.removeprefix("--").split("=", 1) for part in command[1:])
    assert command[0] == "tensorflow_model_server"
    for name in ("model_config_file", "batching_parameters_file", "monitoring_config_file"):
        assert Path(flags[name]).is_file()
    assert "force_allow_any_version_labels_for_unavailable_models" in flags
    assert "force_allow_any_version_labels_for_unavailable_models" not in " ".join(
        repository.server_command(folder, follow=True)
    )


def test_the_command_for_a_container_shows_it_the_folder(folder: Path) -> None:
    repository.write_repository(folder, "/models")
    command = repository.server_command(folder, base_path="/models")
    at = command.index("tensorflow/serving:latest")
    assert command[:2] == ["docker", "run"]
    assert command[at - 2 : at] == ["--entrypoint", "tensorflow_model_server"]
    mounted = command[command.index("--mount") + 1]
    assert mounted == f"type=bind,source={folder.resolve()},target=/models,readonly"
    flags = dict(part.removeprefix("--").split("=", 1) for part in command[at + 1 :])
    assert flags["model_config_file"] == "/models/models.config"
    assert str(folder) not in " ".join(command[at:])
    assert command[command.index("--publish") + 1] == f"127.0.0.1:{flags['port']}:{flags['port']}"


class Layer(FlowLayer):
    """The identity, computed in a way of its own."""

    way: Any = None

    def _forward(self, z: tf.Tensor, condition: Any) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.ensure_shape(type(self).way(z), z.shape), constant_log_det(0.0, z)

    _inverse = _forward


WAYS = {
    "EagerPyFunc calls Python": lambda z: tf.py_function(lambda a: a, [z], z.dtype),
    "PyFunc calls Python": lambda z: tf.numpy_function(lambda a: a, [z], z.dtype),
    "must be compiled by XLA": tf.function(lambda z: z + 0, jit_compile=True, autograph=False),
}


@pytest.mark.parametrize("message", WAYS)
def test_what_a_server_cannot_run_is_not_exported(
    message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Layer, "way", staticmethod(WAYS[message]))
    with pytest.raises(ValueError, match=message):
        flowzoo.export(Flow([Layer()], (2,)), tmp_path, name="own", warmup_batch_sizes=())
    assert list((tmp_path / "own").iterdir()) == []


def test_the_rules_about_operations(tmp_path: Path) -> None:
    """Each rule, and the operations of other libraries, in graphs written by hand."""
    from tensorflow.core.protobuf import saved_model_pb2

    known = {
        "MatMul",
        "Conv2D",
        "StatelessRandomNormalV2",
        "Assert",
        "NoOp",
        "While",
        "CheckNumerics",
        "RestoreV2",
    }
    assert known <= ops.servable_ops()
    for start in ops.REFUSED:
        assert not any(name.startswith(start) for name in ops.servable_ops())
    for op in ("XlaLaunch", "CollectiveReduceV2", "PyFuncStateless", "TextNormalizer"):
        proto = saved_model_pb2.SavedModel()
        function = proto.meta_graphs.add().graph_def.library.function.add()
        function.signature.name = "inner"
        function.node_def.add(name="node", op=op)
        function.node_def.add(name="call", op="inner")
        (tmp_path / "saved_model.pb").write_bytes(proto.SerializeToString())
        (found,) = ops.problems(tmp_path)
        assert op in found and (ops.reason_against(op) or "no operation of TensorFlow") in found


def test_a_model_that_refuses_its_own_samples_is_not_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Layer, "way", staticmethod(lambda z: z / 0.0))
    flow = Flow([Layer()], (2,))
    with pytest.raises(ValueError, match="own samples.*x has no finite result"):
        flowzoo.export(flow, tmp_path, name="own")
    assert list((tmp_path / "own").iterdir()) == []
    path = flowzoo.export(flow, tmp_path, name="own", warmup_batch_sizes=())
    assert not (path / "assets.extra" / "tf_serving_warmup_requests").exists()


def test_the_equation_of_an_image_is_not_solved_to_warm_up(tmp_path: Path) -> None:
    """No example prepares the graph; the requests have been run, and what is called often stays apart."""
    network = {"filters": (4,), "blocks": 1, "attention": False, "solver": "dopri5"}
    flow = FlowMatching((4, 4, 1), num_values=4, num_classes=3, **network)
    path = flowzoo.export(flow, tmp_path, name="digits")
    requests = logs(path)
    assert {request.model_spec.signature_name for request in requests} == NAMES
    for request in requests:
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        assert {len(inputs[name]) for name in ("x", "z", "condition") if name in inputs} == {0}
        assert inputs.get("num_samples", 0) == 0
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    library = saved.meta_graphs[0].graph_def.library.function
    apart = [function for function in library if function.attr["_noinline"].b]
    assert apart and all(len(function.node_def) >= 200 for function in apart)
    assert warmup.batch_sizes_for(flow, batched=True) == (1,)
    assert warmup.batch_sizes_for(shared("flow_matching", "conditional")) == (1, 32)
    assert warmup.batch_sizes_for(shared("glow", "labelled_image")) == (1, 32)


@pytest.mark.parametrize("sizes", [(-1,), (1.5,), (True,), tuple(range(1, 200)), 3, "1"])
def test_wrong_batch_sizes(sizes: Any, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match="warm-up takes"):
        flowzoo.export(Flow([], (2,)), tmp_path, warmup_batch_sizes=sizes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "a:b", "ä", 3])
def test_wrong_names(name: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name takes"):
        flowzoo.export(Flow([], (2,)), tmp_path, name=name)
    assert list(tmp_path.iterdir()) == []


def test_a_version_is_never_replaced(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="choose another version"):
        flowzoo.export(Flow([], (2,)), folder, name="images", version=7)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    described = json.loads((folder / "images" / "7" / "assets.extra" / "signatures.json").read_text())
    assert set(described["signatures"]) == set(SIGNATURES)
