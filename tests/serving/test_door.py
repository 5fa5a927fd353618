"""What is wrong with a call is said before it is sent, and what only the server sees is said clearly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api: the extra serving")


from flowzoo import errors
from flowzoo.serving import Client, Tls, checking
from flowzoo.serving.signatures import Signature, TensorSpec, find, signatures_of
from flowzoo.serving.transport import parse_address
from tests.serving.served import Served

X = TensorSpec("x", "float32", (None, 3))
IMAGE = TensorSpec("x", "uint8", (None, 2, 2))


@pytest.mark.parametrize(
    ("value", "spec", "kind", "match"),
    [
        ([1.0, 2.0, 3.0], X, ValueError, r"\[batch, 3\] \(a batch of one .*Received: \(3,\)"),
        ([[1.0, 2.0]], X, ValueError, r"x takes the shape \[batch, 3\]. Received: \(1, 2\)"),
        ([[[1.0, 2.0, 3.0]]], X, ValueError, r"Received: \(1, 1, 3\)"),
        ([[1.0, np.nan, 3.0]], X, ValueError, r"finite numbers. Received: nan at index \(0, 1\)"),
        ([[1.0, 2.0, -np.inf]], X, ValueError, "finite numbers. Received: -inf"),
        ([[1.0, 2.0, 1e39]], X, ValueError, "float32.*Received: values from 1 to 1e"),
        ([["a", "b", "c"]], X, TypeError, "x takes numbers. Received: an array of dtype <U1"),
        ([[1j, 2, 3]], X, TypeError, "complex128"),
        ([[1.0, 2.0, 3.0], [1.0]], X, ValueError, "x takes an array of shape"),
        (None, X, TypeError, "x takes an array. Received: None"),
        (np.full((1, 2, 2), 256), IMAGE, ValueError, "from 0 to 255 .*Received: values from 256 to 256"),
        (np.full((1, 2, 2), -1), IMAGE, ValueError, "Received: values from -1"),
        (np.full((1, 2, 2), 0.5), IMAGE, ValueError, r"whole numbers \(uint8\). Received: 0.5"),
        ([[1]], TensorSpec("b", "bool", (None, 1)), ValueError, "true or false"),
        ([1.0], TensorSpec("s", "bytes", (None,)), TypeError, "strings or bytes"),
    ],
)
def test_wrong_arrays(value: Any, spec: TensorSpec, kind: type, match: str) -> None:
    with pytest.raises(kind, match=match):
        checking.tensor(value, spec)


def test_right_arrays_have_the_type_of_the_model() -> None:
    for value in (
        [[1, 2, 3]],
        np.ones((1, 3), np.float16),
        np.ones((1, 3), np.float64),
        np.ones((1, 3), bool),
    ):
        assert checking.tensor(value, X).dtype == np.float32
    assert checking.tensor(np.full((1, 2, 2), 255.0), IMAGE).dtype == np.uint8
    assert checking.tensor(3, TensorSpec("n", "int32", ())).shape == ()
    backwards = np.arange(6.0, dtype=">f4").reshape(3, 2).T
    np.testing.assert_array_equal(checking.tensor(backwards, X), backwards)


def test_conditions() -> None:
    spec = TensorSpec("condition", "int32", (None,))
    np.testing.assert_array_equal(checking.condition(2, spec, 3, "m"), [2, 2, 2])
    assert checking.condition(None, None, 3, "m") is None
    for value, given, match in (
        (None, spec, "m needs condition= .int32, shape .batch.*Received: None"),
        ([1], None, "m takes no condition. Received"),
        ([1, 2], spec, "2 conditions for 3 examples"),
        ([[1, 2]], spec, r"condition takes the shape \[batch\]. Received: \(1, 2\)"),
        (0.5, spec, "whole numbers"),
    ):
        with pytest.raises(ValueError, match=match):
            checking.condition(value, given, 3, "m")


@pytest.mark.parametrize(
    ("arguments", "kind", "match"),
    [
        ({"address": "localhost:8500"}, ValueError, "address takes grpc://HOST:PORT"),
        ({"address": "ftp://localhost"}, ValueError, "address takes"),
        ({"address": "http://localhost:99999"}, ValueError, "port from 1"),
        ({"address": 8501}, TypeError, "address takes a string"),
        ({"model": "a/b"}, ValueError, "without blanks"),
        ({"model": ""}, ValueError, "without blanks"),
        ({"model": None}, TypeError, "model takes a name"),
        ({"version": -1}, ValueError, "version takes a whole number"),
        ({"version": "1"}, ValueError, "version takes a whole number"),
        ({"label": ""}, ValueError, "label takes"),
        ({"version": 1, "label": "a"}, ValueError, "not both"),
        ({"timeout": 0}, ValueError, "timeout takes a number of seconds above 0"),
        ({"timeout": "1"}, TypeError, "timeout takes a number of seconds"),
        ({"connect_timeout": float("nan")}, ValueError, "connect_timeout takes"),
        ({"max_batch": 0}, ValueError, "max_batch takes a whole number from 1"),
        ({"concurrency": 1.5}, TypeError, "concurrency takes a whole number"),
        ({"max_message_bytes": True}, TypeError, "max_message_bytes takes"),
        ({"retry": None}, TypeError, "retry takes a Retry"),
        ({"tls": Tls(ca_file="ca.pem")}, ValueError, "tls= is for"),
    ],
)
def test_wrong_arguments_of_a_client(arguments: dict[str, Any], kind: type, match: str) -> None:
    with pytest.raises(kind, match=match):
        Client(**{"address": "http://localhost:8501", "model": "m", **arguments})


def test_half_a_certificate_is_none() -> None:
    with pytest.raises(ValueError, match="belong together"):
        Tls(cert_file="a.pem")


def test_addresses() -> None:
    for text, want in (
        ("http://a", "http://a:8501"),
        ("grpc://a.b/", "grpc://a.b:8500"),
        ("grpcs://[::1]:1", "grpcs://[::1]:1"),
    ):
        assert str(parse_address(text)) == want


def test_wrong_calls_are_not_sent(served: Served, scheme: str) -> None:
    x = np.zeros((2, 3), np.float32)
    with served.client(scheme) as client:
        for call, kind, match in (
            (lambda: client.log_prob(x[0]), ValueError, "leading dimension of 1"),
            (lambda: client.log_prob(x, [1.0]), ValueError, "takes no condition"),
            (lambda: client.log_prob(x * np.nan), ValueError, "finite"),
            (lambda: client.sample(-1), ValueError, "at least 0. Received: -1"),
            (lambda: client.sample(1.5), TypeError, "n takes an integer"),
            (lambda: client.sample(2, temperature=0), ValueError, "temperature takes a number above 0"),
            (lambda: client.sample(2, temperature="1"), TypeError, "temperature takes"),
            (lambda: client.sample(2, seed=1.5), TypeError, "seed takes"),
            (lambda: client.log_prob(x, timeout=-1), ValueError, "timeout takes"),
            (lambda: client.predict("log_prob", [x]), TypeError, "arrays by name"),
            (lambda: client.predict("log_prob", {"y": x}), ValueError, "takes the inputs x. Received: y"),
            (lambda: client.predict("log_prop", {"x": x}), errors.NotServedError, "mean 'log_prob'"),
        ):
            with pytest.raises(kind, match=match):
                call()
    assert served.backend.requests == []


def test_what_is_not_served_is_named(served: Served, scheme: str) -> None:
    for choice, match in (
        ({"model": "nothing"}, "Servable not found for request: Latest.nothing"),
        ({"version": 7}, "Specific.realnvp_vector, 7"),
    ):
        with served.client(scheme, **choice) as client, pytest.raises(errors.NotServedError, match=match):
            client.log_prob([[1.0, 2.0, 3.0]])
    with served.client(scheme, label="nope") as client:
        with pytest.raises(errors.InvalidRequestError, match="Unrecognized servable version label: nope"):
            client.signatures()


def test_an_older_export_lacks_a_signature() -> None:
    known = {name: Signature(name, {}, {}) for name in ("log_prob", "sample")}
    with pytest.raises(
        errors.NotServedError, match="m has no signature 'anomaly_score'.* It has log_prob, sample"
    ):
        find(known, "anomaly_score", "m")


@pytest.mark.parametrize(
    "content", [{}, {"signature_def": 3}, {"signature_def": {"a": {"inputs": {"x": {}}}}}]
)
def test_metadata_that_are_none_are_an_error(content: Any) -> None:
    with pytest.raises(errors.ServingError, match="metadata cannot be read"):
        signatures_of(content)
