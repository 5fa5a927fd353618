"""The job files of deploy/: what shells, TensorFlow and Kubeflow's typed models make of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
import yaml

from flowzoo.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
SLURM, TFJOB = ROOT / "deploy" / "slurm", ROOT / "deploy" / "kubernetes" / "tfjob.yaml"
SCRIPTS = [*sorted(path for path in (ROOT / "deploy").rglob("*") if path.suffix in (".sh", ".sbatch"))]
SCRIPTS += [path for path in [ROOT / ".ci" / "run"] if path.exists()]
TRAIN = typer.main.get_command(app).commands["train"]
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="no bash on this machine")


# --- Shell ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_parses(script):
    done = subprocess.run([BASH, "-n", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# --- Slurm ---------------------------------------------------------------------------------------

# scontrol as Slurm's: one name a line. srun: one task after the other, where Slurm's run together.
STUBS = {
    "scontrol": '[[ "$1 $2" == "show hostnames" ]] || exit 1\necho "$3" | tr , "\\n"',
    "srun": """
echo "srun $*" >> "$LOG"
while [[ "$1" == --* ]]; do shift; done
worst=0
for ((i = 0; i < SLURM_NTASKS; i++)); do
    SLURM_PROCID=$i "$@" || worst=$?
done
exit $worst""",
    "flowzoo": """
echo "$SLURM_PROCID|$TF_CONFIG|$*" >> "$LOG"
code=$(head -n 1 "$CODES" 2>/dev/null || echo 0)
sed -i 1d "$CODES" 2>/dev/null || true
exit "${code:-0}\"""",
}


@pytest.fixture
def slurm(tmp_path):
    """Runs a script as Slurm would; gives what it said, and what srun and flowzoo were asked."""
    for name, text in STUBS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{BASH}\n{text}\n")
        path.chmod(0o755)

    def run(script, *arguments, hosts=("n1", "n2"), codes=(), **variables):
        (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
        (tmp_path / "log").write_text("")
        environment = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "LOG": str(tmp_path / "log"),
            "CODES": str(tmp_path / "codes"),
            "SLURM_JOB_ID": "70123",
            "SLURM_JOB_NODELIST": ",".join(hosts),
            "SLURM_JOB_NUM_NODES": str(len(hosts)),
            "SLURM_NTASKS": str(len(hosts)),
            "SLURM_PROCID": "0",
            "SLURM_SUBMIT_DIR": str(ROOT),
            "PAUSE_SECONDS": "0",
            **variables,
        }
        done = subprocess.run([BASH, script, *arguments], env=environment, capture_output=True, text=True)
        lines = (tmp_path / "log").read_text().splitlines()
        calls = [line.split("|") for line in lines if not line.startswith("srun")]
        return done, [line for line in lines if line.startswith("srun")], calls

    return run


@pytest.mark.parametrize("count", [1, 2, 5])
def test_tensorflow_reads_the_cluster_that_slurm_has(slurm, monkeypatch, count):
    """Against TensorFlow's own reading of TF_CONFIG, and its own reading of Slurm's variables."""
    import tensorflow as tf

    cluster_resolver = tf.distribute.cluster_resolver

    hosts = [f"node{number:02d}" for number in range(count)]
    done, starts, calls = slurm(
        SLURM / "train.sbatch", "glow_celeba", "--out", "/shared/my runs", hosts=hosts
    )
    assert done.returncode == 0, done.stderr
    assert len(starts) == 1 and f"--ntasks={count}" in starts[0] and "--kill-on-bad-exit=1" in starts[0]
    assert [int(call[0]) for call in calls] == list(range(count))
    for index, (_, config, arguments) in enumerate(calls):
        assert arguments == "train glow_celeba --out /shared/my runs --strategy multiworker --resume --quiet"
        monkeypatch.setenv("TF_CONFIG", config)
        read = cluster_resolver.TFConfigClusterResolver()
        assert (read.task_type, read.task_id) == ("worker", index)
        monkeypatch.setenv("SLURM_PROCID", str(index))
        monkeypatch.setenv("SLURM_STEP_NODELIST", f"node[00-{count - 1:02d}]" if count > 1 else "node00")
        monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", f"1(x{count})" if count > 1 else "1")
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", str(count))
        own = cluster_resolver.SlurmClusterResolver(
            port_base=20123, gpus_per_node=1, gpus_per_task=1, auto_set_gpu=False
        )
        assert read.cluster_spec().as_dict() == own.cluster_spec().as_dict()
        assert own.get_task_info() == ("worker", index)


def test_all_start_again_after_a_failure(slurm):
    # Try 1: worker 1 is killed. Try 2: worker 0 fails. Try 3: both are done.
    done, starts, calls = slurm(SLURM / "train.sbatch", "glow_celeba", codes=(0, 137, 1, 0, 0, 0))
    assert done.returncode == 0 and len(starts) == 3
    assert "Try 1 of 50 ended with exit code 137." in done.stderr
    assert len({tuple(call[1:]) for call in calls}) == 2 and len(calls) == 6


def test_it_gives_up_where_trying_again_does_not_help(slurm):
    done, starts, _ = slurm(SLURM / "train.sbatch", "glow_celbea", codes=(3, 3))
    assert done.returncode == 3 and len(starts) == 1
    done, starts, _ = slurm(SLURM / "train.sbatch", "glow_celeba", codes=(1,) * 10, MAX_TRIES="2")
    assert done.returncode == 1 and len(starts) == 2


def test_what_cannot_be_is_said(slurm):
    assert "Usage" in slurm(SLURM / "train.sbatch")[0].stderr
    moved = slurm(SLURM / "train.sbatch", "x", SLURM_SUBMIT_DIR="/nowhere")[0]
    assert moved.returncode == 2 and "submit from the project's folder" in moved.stderr
    wrong = slurm(SLURM / "worker.sh", "x", SLURM_NTASKS="4")[0]
    assert wrong.returncode == 2 and "4 tasks on 2 hosts" in wrong.stderr


@pytest.mark.slow
def test_one_worker_really_trains(slurm, tmp_path):
    (tmp_path / "bin" / "flowzoo").write_text(f'#!{BASH}\nexec "{sys.executable}" -m flowzoo.cli "$@"\n')
    variables = {"PYTHONPATH": str(ROOT), "FLOWZOO_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    arguments = ("test_nice", "--out", str(tmp_path / "runs"), "--epochs", "1", "--limit", "200")
    done, _, _ = slurm(SLURM / "train.sbatch", *arguments, hosts=("localhost",), MAX_TRIES="1", **variables)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "runs" / "test_nice" / "SHA256SUMS").is_file()


def test_the_commands_are_flowzoos_own(slurm):
    """What the job files start, read by the command line itself."""
    given = yaml.safe_load_all(TFJOB.read_text())
    (container,) = [job for job in given if job["kind"] == "TFJob"][0]["spec"]["tfReplicaSpecs"]["Worker"][
        "template"
    ]["spec"]["containers"]
    commands = [
        container["command"],
        ["flowzoo", *slurm(SLURM / "worker.sh", "glow_celeba")[2][0][2].split()],
    ]
    for program, command, *arguments in commands:
        assert (program, command) == ("flowzoo", "train")
        read = TRAIN.make_context("train", list(arguments)).params
        assert read["strategy"] == "multiworker" and read["resume"] and read["name"] == "glow_celeba"


# --- Kubernetes ----------------------------------------------------------------------------------


def test_the_job_is_what_the_operator_wants():
    claim, job = yaml.safe_load_all(TFJOB.read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "TFJob")
    assert list(job["spec"]["tfReplicaSpecs"]) == ["Worker"]
    worker = job["spec"]["tfReplicaSpecs"]["Worker"]
    # A container that is killed starts again by itself, and so do the others, which end with an error.
    assert worker["restartPolicy"] == "OnFailure"
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "tensorflow" and container["ports"][0]["name"] == "tfjob-port"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == set(volumes)
    assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    out = container["command"][container["command"].index("--out") + 1]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert all(path.startswith(mounts["shared"]) for path in (out, variables["FLOWZOO_DATA"]))
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "flowzoo").rglob("*.py"))
    assert all(name in source for name in variables if name.startswith("FLOWZOO_"))


def test_kubeflows_typed_models_read_every_key():
    """Of `kubeflow-training`, whose TFJob holds the pod template of `kubernetes`: no key is lost in them."""
    reason = "needs the package kubeflow-training (typed models of TFJob)"
    api_client = pytest.importorskip("kubeflow.training.api_client", reason=reason).ApiClient()
    kinds = {"TFJob": "KubeflowOrgV1TFJob", "PersistentVolumeClaim": "V1PersistentVolumeClaim"}

    def again(content):
        class Response:
            data = json.dumps(content)

        client = api_client
        if content["kind"] != "TFJob":
            client = pytest.importorskip("kubernetes.client").ApiClient()
        return client.sanitize_for_serialization(client.deserialize(Response, kinds[content["kind"]]))

    for content in yaml.safe_load_all(TFJOB.read_text()):
        assert again(content) == content
    # A key that is misspelt is noticed.
    wrong = yaml.safe_load(re.sub("restartPolicy", "restartpolicy", TFJOB.read_text().split("---\n")[1]))
    assert again(wrong) != wrong
