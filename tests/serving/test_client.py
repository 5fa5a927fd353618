"""A served flow gives what the flow gives: every method, over both interfaces."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api: the extra serving")


from flowzoo import errors, random
from flowzoo.serving import Client, seeds
from tests.serving.served import SERVED, Served

ROOT = Path(__file__).resolve().parents[2]
MODELS = [f"{family}_{kind}" for family, kind in SERVED]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def near(got: np.ndarray, want: object, **tolerance: float) -> None:
    wanted = np.asarray(want)
    assert got.dtype == wanted.dtype and got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, **(tolerance or CLOSE))


@pytest.mark.parametrize("model", MODELS)
def test_every_method_equals_the_flow(served: Served, scheme: str, model: str) -> None:
    flow, kind = served.flows[model], served.kinds[model]
    x, condition = kind.data(7), kind.condition(7)
    with served.client(scheme, model, version=1, max_batch=3) as client:
        near(client.log_prob(x, condition), flow.log_prob(x, condition))
        near(client.anomaly_score(x, condition), -np.asarray(flow.log_prob(x, condition)))
        z = client.to_latent(x, condition)
        near(z, flow.to_latent(x, condition))
        near(client.from_latent(z, condition), flow.from_latent(z, condition))
        one = None if condition is None else condition[:1]
        for options in ({"seed": 5}, {"seed": [3, -4], "temperature": 0.5}):
            near(client.sample(3, one, **options), flow.sample(3, one, **options))
        assert client.sample(3, one).shape == (3, *kind.event_shape)
        if flow.discrete:
            near(client.bits_per_dim(x, condition), flow.bits_per_dim(x, condition))
            near(client.log_prob(x.astype(float), condition), flow.log_prob(x, condition))
        else:
            with pytest.raises(ValueError, match="bits_per_dim is for discrete data"):
                client.bits_per_dim(x, condition)


def test_one_condition_counts_for_all(served: Served, scheme: str) -> None:
    flow, kind = served.flows["nice_labelled_image"], served.kinds["nice_labelled_image"]
    x = kind.data(5)
    with served.client(scheme, flow.name, max_batch=2) as client:
        for label in (2, [2], np.array([2])):
            near(client.log_prob(x, label), flow.log_prob(x, label))
        near(client.sample(2, 1, seed=0), flow.sample(2, 1, seed=0))


def test_a_thousand_rows_keep_their_order(served: Served, scheme: str) -> None:
    flow = served.flows["realnvp_vector"]
    x = served.kinds["realnvp_vector"].data(1000)
    with served.client(scheme, version=1, max_batch=64, concurrency=4) as client:
        near(client.log_prob(x), flow.log_prob(x))
        near(client.to_latent(x), flow.to_latent(x))
    sizes = [request.inputs["x"].tensor_shape.dim[0].size for request in served.backend.requests]
    assert sorted(sizes) == [40] * 2 + [64] * 30


def test_few_requests_are_under_way_at_once(
    served: Served, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, now, most = threading.Lock(), 0, 0
    predict = served.backend.predict

    def counted(request):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        try:
            return predict(request)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(served.backend, "predict", counted)
    served.backend.faults.delay = 0.05
    with served.client(scheme, max_batch=10, concurrency=3) as client:
        client.log_prob(np.zeros((100, 3), np.float32))
    assert most == 3


def test_sixteen_threads_share_a_client(served: Served, scheme: str) -> None:
    flow = served.flows["realnvp_vector"]
    x = served.kinds["realnvp_vector"].data(16 * 20)
    want = np.asarray(flow.log_prob(x))
    with served.client(scheme, version=1, max_batch=8) as client, ThreadPoolExecutor(16) as pool:
        for _ in range(3):
            parts = list(pool.map(client.log_prob, np.split(x, 16)))
            near(np.concatenate(parts), want)


def test_many_samples_repeat_with_their_seed(served: Served, scheme: str) -> None:
    flow = served.flows["realnvp_vector"]
    with served.client(scheme, version=1, max_batch=50) as client:
        x = client.sample(120, seed=7)
        np.testing.assert_array_equal(x, client.sample(120, seed=7))
        near(x[:50], flow.sample(50, seed=7))
        assert len(np.unique(x, axis=0)) == 120
        assert not np.array_equal(client.sample(120), client.sample(120))


def test_seeds_are_those_of_the_library() -> None:
    for seed in (0, 1, -1, 2**31, 2**63 - 1, np.int64(5), [1, 2], np.array([-3, 4]), tf.constant([5, 6])):
        np.testing.assert_array_equal(seeds.as_pair(seed), random.as_seed(seed).numpy())
    assert not np.array_equal(seeds.as_pair(None), seeds.as_pair(None))
    children = {tuple(seeds.child(seeds.as_pair(0), index)) for index in range(1000)}
    assert len(children) == 1000
    for wrong in ("1", 1.5, True, [1, 2, 3], [1.0, 2.0]):
        with pytest.raises(TypeError, match="seed takes"):
            seeds.as_pair(wrong)


def test_nothing_is_nothing(served: Served, scheme: str) -> None:
    for model in MODELS:
        flow, kind = served.flows[model], served.kinds[model]
        x, condition = kind.data(0), kind.condition(0)
        with served.client(scheme, model) as client:
            near(client.log_prob(x, condition), flow.log_prob(x, condition))
            near(client.to_latent(x, condition), flow.to_latent(x, condition))
            one = kind.condition(1)
            near(client.sample(0, one, seed=1), flow.sample(0, one, seed=1))
    assert served.backend.requests == []


def test_versions_and_labels_choose(served: Served, scheme: str) -> None:
    x = served.kinds["realnvp_vector"].data(4)
    old, new = served.flows["realnvp_vector"], served.flows["newer"]
    cases = (({"version": 1}, old), ({"label": "stable"}, old), ({"label": "canary"}, new), ({}, new))
    assert not np.allclose(old.log_prob(x), new.log_prob(x))
    for choice, flow in cases:
        with served.client(scheme, **choice) as client:
            near(client.log_prob(x), flow.log_prob(x))


def test_a_label_is_waited_for_by_itself(served: Served, scheme: str) -> None:
    """The server's states are those of all versions; the label's own is asked for, until it is given out."""
    with served.client(scheme, label="stable") as client:
        assert client.wait_until_ready(5).version == 1
        assert {status.version for status in client.status()} == {1, 2}
    labels, key = served.backend.labels, ("realnvp_vector", "next")
    with served.client(scheme, label="next") as client:
        with pytest.raises(errors.ServingTimeoutError, match="version label: next"):
            client.wait_until_ready(0.3)
        threading.Timer(0.5, lambda: labels.update({key: 2})).start()
        assert client.wait_until_ready(10).version == 2
    del labels[key]


def test_the_server_says_what_it_serves(served: Served, scheme: str) -> None:
    with served.client(scheme) as client:
        assert [(s.version, s.state, s.code) for s in client.status()] == [
            (2, "AVAILABLE", "OK"),
            (1, "AVAILABLE", "OK"),
        ]
        assert client.wait_until_ready(5).version == 2
        found = client.signatures()
        assert {"log_prob", "sample", "to_latent", "from_latent", "serving_default"} <= set(found)
        assert not any(name.startswith("__") for name in found)
        x, n = found["log_prob"].inputs["x"], found["sample"].inputs["num_samples"]
        assert (x.dtype, x.shape, n.dtype, n.shape) == ("float32", (None, 3), "int32", ())
        client.signatures(refresh=True)
        outputs = client.predict("log_prob", {"x": [[1.0, 2.0, 3.0]]})
        near(outputs["log_prob"], served.flows["newer"].log_prob([[1.0, 2.0, 3.0]]))


def test_any_signature_can_be_called(served: Served, scheme: str) -> None:
    """Also one of several outputs, and one that flows have no method for."""
    inputs = {"num_samples": 3, "seed": [1, 2], "temperature": 1.0}
    with served.client(scheme, version=1) as client:
        outputs = client.predict("sample_and_log_prob", inputs)
    x, log_prob = served.flows["realnvp_vector"].sample_and_log_prob(3, seed=[1, 2])
    near(outputs["x"], x)
    near(outputs["log_prob"], log_prob)


def test_the_graph_refuses_what_only_it_can_see(served: Served, scheme: str) -> None:
    """A label that is no class, and a value that no image has, in the range of their types."""
    kind = served.kinds["nice_labelled_image"]
    x = kind.data(4)
    with served.client(scheme, "nice_labelled_image") as client:
        for image, label, match in ((x, 7, "label"), (np.full_like(x, 9), 0, "x")):
            with pytest.raises(errors.InvalidRequestError, match=match) as caught:
                client.log_prob(image, label)
            assert caught.value.code == "INVALID_ARGUMENT"
    assert len(served.backend.requests) == 2


def test_waiting_outlasts_loading(served: Served, scheme: str) -> None:
    served.backend.faults.loading = 2
    with served.client(scheme) as client:
        assert client.wait_until_ready(10).state == "AVAILABLE"
        served.backend.faults.loading = 1_000
        with pytest.raises(errors.ServingTimeoutError, match="not ready after 0.3 s: version 2 is LOADING"):
            client.wait_until_ready(0.3)


def test_a_batching_server_takes_all_but_samples(served: Served, scheme: str) -> None:
    """With --enable_batching the server wants rows of one number in every input."""
    served.backend.batching = True
    flow, kind = served.flows["nice_labelled_image"], served.kinds["nice_labelled_image"]
    x = kind.data(5)
    with served.client(scheme, flow.name) as client:
        near(client.log_prob(x, 1), flow.log_prob(x, 1))
        with pytest.raises(errors.InvalidRequestError, match="at least one dimension"):
            client.sample(2, 1, seed=0)


def imported(code: str) -> set[str]:
    """The heavy packages that a process has after some code."""
    heavy = {"tensorflow", "grpc", "keras", "flowzoo.models"}
    program = f"{code}\nimport sys\nprint(*(set(sys.modules) & {heavy!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(done.stdout.split())


def test_rest_needs_neither_tensorflow_nor_grpc(served: Served) -> None:
    code = f"""
from flowzoo.serving import Client
client = Client({served.address("http")!r}, "realnvp_vector")
client.log_prob([[1.0, 2.0, 3.0]]), client.sample(2, seed=1), client.status()
"""
    assert imported(code) == set()


def test_without_the_extra_grpc_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis.predict_pb2", None)
    with pytest.raises(ImportError, match=r"pip install 'flowzoo\[serving\]'"):
        Client("grpc://localhost:8500", "m")
    Client("http://localhost:8501", "m").close()
