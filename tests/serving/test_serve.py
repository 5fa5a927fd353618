"""`flowzoo serve`: the command that it starts, its life, and what it says where there is no server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api: the extra serving")


from flowzoo import errors, exporting
from flowzoo.cli import codes, main
from flowzoo.serving import process, repository, server
from tests.serving.served import Served

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., tuple[int, str, str]]
BATCHED = ["--enable_batching=true", "--enable_per_model_batching_parameters=true"]


def program(path: Path, text: str) -> Path:
    """An executable Python program."""
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(text)}")
    path.chmod(0o755)
    return path


def stub(folder: Path) -> Path:
    """A program that is called as the server is: it notes its arguments, and becomes the double."""
    return program(
        folder / "tensorflow_model_server",
        f"""
        import os, sys
        with open({str(folder / "arguments")!r}, "w") as file:
            file.write("\\n".join(sys.argv[1:]))
        if os.environ.get("STUB_ENDS"):
            sys.exit(int(os.environ["STUB_ENDS"]))
        os.chdir({str(ROOT)!r})
        os.execv(sys.executable, [sys.executable, "-m", "tests.serving.double", *sys.argv[1:]])
        """,
    )


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it yet."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("FLOWZOO_HOME", str(tmp_path / "home"))
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(code), captured.out, captured.err

    return run


def versions(folder: Path, *numbers: int) -> Path:
    for number in numbers:
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "saved_model.pb").touch()
    return folder


def models_of(folder: Path, base: str | None = None) -> Path:
    """A folder of two models with the files that a server reads."""
    for name in ("maf_moons", "glow_x"):
        versions(folder / name, 1, 2)
    repository.write_repository(folder, base)
    return folder


# -- the command -----------------------------------------------------------------------------------------


def test_the_command_of_one_model(bin_folder: Path, tmp_path: Path, run: Run) -> None:
    path = stub(bin_folder)
    folder = versions(tmp_path / "served" / "maf_moons", 1, 3)
    code, out, _ = run("serve", folder, "--port", 9000, "--rest-port", 9001, "--flag", "--x=1", "--dry-run")
    assert code == 0 and out.split() == [
        str(path),
        "--port=9000",
        "--rest_api_port=9001",
        "--model_name=maf_moons",
        f"--model_base_path={folder}",
        "--x=1",
    ]
    code, _, err = run("serve", folder, "--batching", "--dry-run")
    assert code == codes.Code.USAGE and "no version of maf_moons was exported for merged requests" in err
    (folder / "3" / repository.MODEL_BATCHING).touch()
    command = json.loads(run("serve", folder, "--dry-run", "--json")[1])["command"]
    assert command[-2:] == BATCHED
    assert not (bin_folder / "arguments").exists()


def test_the_command_of_many_models(bin_folder: Path, tmp_path: Path, run: Run) -> None:
    stub(bin_folder)
    folder = models_of(tmp_path / "served")
    want = [
        "--port=8500",
        "--rest_api_port=8501",
        f"--model_config_file={folder}/models.config",
        "--model_config_file_poll_wait_seconds=60",
        "--force_allow_any_version_labels_for_unavailable_models=true",
        f"--monitoring_config_file={folder}/monitoring.config",
    ]
    assert run("serve", folder, "--dry-run")[1].split()[1:] == want
    (folder / "glow_x" / "2" / repository.MODEL_BATCHING).touch()
    want += [*BATCHED, f"--batching_parameters_file={folder}/batching_parameters.txt"]
    assert run("serve", folder, "--dry-run", "--batching")[1].split()[1:] == want


def test_the_command_of_a_container(bin_folder: Path, tmp_path: Path, run: Run) -> None:
    docker = program(bin_folder / "docker", "import sys; sys.exit(sys.argv[1:] != ['info'])")
    folder = models_of(tmp_path / "served", base="/models")
    words = run("serve", folder, "--port", 9000, "--dry-run")[1].split()
    mount = f"type=bind,source={folder},target="
    assert words[:16] == [
        *(str(docker), "run", "--rm", "--init"),
        *("--publish", "127.0.0.1:9000:9000", "--publish", "127.0.0.1:8501:8501"),
        *("--mount", f"{mount}{folder},readonly", "--mount", f"{mount}/models,readonly"),
        *("--entrypoint", "tensorflow_model_server", "tensorflow/serving:latest", "--port=9000"),
    ]
    stub(bin_folder)  # a program on the PATH comes first, unless an image is asked for
    assert "docker" not in run("serve", tmp_path / "served" / "maf_moons", "--dry-run")[1]
    named = run("serve", folder, "--image", "tensorflow/serving:2.19.1", "--dry-run")[1]
    assert "tensorflow/serving:2.19.1" in named and str(docker) in named


def test_the_command_of_an_entry(bin_folder: Path, tmp_path: Path, run: Run) -> None:
    stub(bin_folder)
    _, out, _ = run("serve", "realnvp_mnist", "--batching", "--dry-run")
    assert f"--model_base_path={tmp_path}/home/served/realnvp_mnist" in out and BATCHED[1] in out
    versions(tmp_path / "mine" / "realnvp_mnist", 1, 2)
    _, out, _ = run("serve", "realnvp_mnist", "--folder", tmp_path / "mine", "--dry-run")
    assert "Serving version 2" in out and f"--model_base_path={tmp_path}/mine/realnvp_mnist" in out
    trained = Path(__file__).parents[2] / "saved_models" / "maf_moons"  # a folder as training leaves it
    _, out, _ = run("serve", f"path:{trained}", "--folder", tmp_path / "own", "--dry-run")
    assert f"--model_name=maf_moons --model_base_path={tmp_path}/own/maf_moons" in out


# -- no server --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "options", "why"),
    [
        (None, (), "There is no tensorflow_model_server on the PATH, and no docker or podman is here"),
        ("docker", (), "docker cannot reach an engine"),
        (None, ("--server", "/nowhere/server"), "--server: /nowhere/server is no program"),
        (None, ("--image", "x"), "no docker or podman is here"),
    ],
)
def test_no_server_is_said_plainly(
    bin_folder: Path, tmp_path: Path, run: Run, engine: str | None, options: tuple[str, ...], why: str
) -> None:
    if engine:
        program(bin_folder / engine, "import sys; sys.exit('Cannot connect to the daemon')")
    folder = versions(tmp_path / "maf_moons", 1)
    code, out, err = run("serve", folder, *options)
    assert code == codes.Code.FAILURE and out == ""
    assert why in err and "tensorflow.org/tfx/serving/setup" in err and "Traceback" not in err
    code, out, err = run("serve", folder, *options, "--dry-run")
    assert code == 0 and why in err and f"--model_base_path={folder}" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("realnvp_minst",), codes.Code.UNKNOWN_NAME, "realnvp_mnist"),
        (("./none",), codes.Code.USAGE, "no folder"),
        (("{tmp}/empty",), codes.Code.USAGE, "neither a models.config nor the versions"),
        (("{tmp}/elsewhere",), codes.Code.USAGE, "/models/glow_x, which is not on this machine"),
        (("{tmp}/maf_moons", "--source", "path:x"), codes.Code.USAGE, "belong to an entry"),
        (("{tmp}/maf_moons", "--port", "8501"), codes.Code.USAGE, "a port each"),
        (("{tmp}/maf_moons", "--port", "{taken}"), codes.Code.USAGE, "cannot be listened on"),
        (("{tmp}/maf_moons", "--port", "0"), codes.Code.USAGE, "--port"),
    ],
)
def test_mistakes(
    bin_folder: Path, tmp_path: Path, run: Run, arguments: tuple[str, ...], code: int, message: str
) -> None:
    stub(bin_folder)
    (tmp_path / "empty").mkdir()
    versions(tmp_path / "maf_moons", 1)
    models_of(tmp_path / "elsewhere", base="/models")
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        words = [word.format(tmp=tmp_path, taken=taken.getsockname()[1]) for word in arguments]
        got, out, err = run("serve", *words, *(() if "--port" in words else ("--port", free_port())))
    assert (got, message in err, out) == (code, True, ""), err
    assert not (bin_folder / "arguments").exists()


# -- its life ---------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(bin_folder: Path, *arguments: object, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """`flowzoo serve` in a process of its own."""
    command = [sys.executable, "-m", "flowzoo.cli", "serve", *map(str, arguments), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2", **variables}
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield started
    finally:
        if started.poll() is None:  # a kill would leave the server behind
            started.terminate()
        started.communicate(timeout=60)


def alive(rest_port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", rest_port)) == 0


def test_serve_ready_client_stop(bin_folder: Path, served: Served) -> None:
    """From the command to an answer over both interfaces, and nothing is left behind."""
    stub(bin_folder)
    flow, ports = served.flows["newer"], (free_port(), free_port())
    folder = served.folder / "realnvp_vector"
    with serving(bin_folder, folder, "--port", ports[0], "--rest-port", ports[1]) as started:
        said = json.loads(started.stdout.readline())
        assert said["models"] == {"realnvp_vector": {"version": 2, "state": "AVAILABLE", "message": ""}}
        x = served.kinds["realnvp_vector"].data(3)
        from flowzoo.serving import Client

        for address in (said["grpc"], said["rest"]):
            with Client(address, "realnvp_vector") as client:
                np.testing.assert_allclose(client.log_prob(x), flow.log_prob(x), rtol=1e-4)
        assert f"--model_base_path={folder}" in (bin_folder / "arguments").read_text()
        started.send_signal(signal.SIGTERM)
        _, err = started.communicate(timeout=60)
    assert started.returncode == codes.Code.OK and "realnvp_vector is ready: version 2" in err
    assert not alive(ports[1])


def test_a_server_that_ends_by_itself_is_a_failure(
    bin_folder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(bin_folder)
    folder = versions(tmp_path / "maf_moons", 1)
    words = ("serve", folder, "--port", free_port(), "--rest-port", free_port())
    monkeypatch.setenv("STUB_ENDS", "3")
    code, _, err = run(*words)
    assert code == codes.Code.FAILURE and "ended by itself (exit code 3)" in err
    monkeypatch.setenv("STUB_ENDS", "0")
    assert run(*words)[0] == codes.Code.OK


def test_interrupts_reach_a_deaf_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not end after a signal is killed."""
    monkeypatch.setattr(process, "_GRACE", 0.3)
    deaf = program(
        tmp_path / "deaf",
        """
        import os, signal, time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)
        """,
    )
    before = signal.getsignal(signal.SIGINT)
    ended = process.serve([str(deaf)], ["m"], free_port(), lambda states: None)
    assert ended == signal.SIGINT and signal.getsignal(signal.SIGINT) is before


def test_a_container_engine_that_hangs_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(*_: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("docker", 20)

    monkeypatch.setattr(server.subprocess, "run", hangs)
    assert not server._engine_runs("docker")


@pytest.mark.slow
def test_an_entry_is_exported_and_served(bin_folder: Path, tmp_path: Path) -> None:
    """The whole way: from a name to an answer that is the entry's own."""
    stub(bin_folder)
    ports = (free_port(), free_port())
    words = ("test_nice", "--folder", tmp_path / "served", "--port", ports[0], "--rest-port", ports[1])
    for signals, code in ((signal.SIGINT, codes.Code.INTERRUPTED), (signal.SIGTERM, codes.Code.OK)):
        with serving(bin_folder, *words) as started:
            said = json.loads(started.stdout.readline())
            import flowzoo
            from flowzoo.serving import Client

            with Client(said["rest"], "test_nice") as client:
                x = client.sample(4, seed=1)
                near = flowzoo.load("test_nice").sample(4, seed=1)
            np.testing.assert_array_equal(x, near)
            started.send_signal(signals)
            started.communicate(timeout=60)
        assert started.returncode == code
        assert exporting.version_folder(tmp_path / "served" / "test_nice", None).name == "2"


def test_errors_are_of_one_kind() -> None:
    error = errors.ServerUnavailableError("m", "UNAVAILABLE")
    assert str(error) == "m" and error.code == "UNAVAILABLE" and isinstance(error, errors.ServingError)
