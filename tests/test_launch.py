"""The files in launch/, as far as they can be checked without the machines they are for."""

import ast
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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
    """Stand-ins for programs, written in bash, ahead of the real ones on PATH."""
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_parses_the_script(script):
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck, of the group dev")
def test_shellcheck_finds_no_problem():
    assert subprocess.run(["shellcheck", *SCRIPTS]).returncode == 0


@pytest.mark.parametrize("path", sorted(LAUNCH.iterdir()), ids=lambda path: path.name)
def test_flags_and_fields_exist(path):
    text = path.read_text()
    fields = re.findall(r"--config\.([\w.]+)", text) + re.findall(r"(?<!-)\bconfig\.([a-z]\w*\.\w+)", text)
    assert set(fields) <= set(FIELDS)
    script = "\n".join(flat(documents(path.name))) if path.suffix == ".yaml" else text
    for module, file in (("rgjax.main", "main.py"), ("rgjax.sweep", "sweep/__main__.py")):
        lines = [line for line in script.replace("\\\n", "").splitlines() if f"python -m {module} " in line]
        used = {flag for line in lines for flag in re.findall(r" --([a-z-]+)", line.partition(module)[2])}
        help_text = ast.get_docstring(ast.parse((ROOT / "rgjax" / file).read_text())) or ""
        assert used <= set(re.findall(r"--([a-z-]+)", help_text))


def test_slurm_script_requeues_itself_before_its_time_is_up():
    text = (LAUNCH / "slurm.sh").read_text()
    assert re.search(r"^#SBATCH --signal=B:USR1@\d+$", text, re.MULTILINE)  # B: the script alone gets the signal
    assert re.search(r"^#SBATCH --requeue$", text, re.MULTILINE)
    assert """trap 'scontrol requeue "$SLURM_JOB_ID"' USR1""" in text
    assert re.search(r"^srun .* &\nwait \$!$", text, re.MULTILINE)  # bash handles no signal during a foreground command


@pytest.mark.parametrize("name", ["slurm.sh", "tpu_pod.sh", "kubernetes.yaml", "skypilot.yaml"])
def test_head_and_readme_show_the_command(name):
    head = "".join(line for line in (LAUNCH / name).read_text().splitlines(True) if line.startswith("#"))
    assert f"launch/{name}" in head
    assert f"launch/{name}" in (LAUNCH / "README.md").read_text()


def test_jobset_gives_jax_one_indexed_job_and_the_rights_to_find_its_hosts():
    kinds = {document["kind"]: document for document in documents("kubernetes.yaml")}
    jobset = kinds["JobSet"]
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    (hosts,) = jobset["spec"]["replicatedJobs"]
    assert hosts["replicas"] == 1
    job = hosts["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"] > 1
    assert "subdomain" not in jobset["spec"]["network"]

    account = kinds["ServiceAccount"]["metadata"]["name"]
    assert job["template"]["spec"]["serviceAccountName"] == account
    assert [(s["kind"], s["name"]) for s in kinds["RoleBinding"]["subjects"]] == [("ServiceAccount", account)]
    assert kinds["RoleBinding"]["roleRef"]["name"] == kinds["Role"]["metadata"]["name"]
    # What jax._src.clusters.k8s_cluster reads: the pods of the namespace and the job of its own pod.
    rules = {(rule["apiGroups"][0], rule["resources"][0]): rule["verbs"] for rule in kinds["Role"]["rules"]}
    assert rules == {("", "pods"): ["list"], ("batch", "jobs"): ["get"]}
    (address,) = re.findall(r"first host at (\S+)", (LAUNCH / "kubernetes.yaml").read_text())
    name = jobset["metadata"]["name"]
    assert address == f"{name}-{hosts['name']}-0-0.{name}"


def test_jobset_container_ends_the_run_on_exit_code_2():
    (jobset,) = (document for document in documents("kubernetes.yaml") if document["kind"] == "JobSet")
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    mounted, volumes = ([v["name"] for v in names] for names in (container["volumeMounts"], pod["volumes"]))
    assert mounted == volumes
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy demands it
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [2]}
    shell, option, script, name = container["command"]
    assert (shell, option, name) == ("sh", "-c", "rgjax")
    install, command = script.split(";")
    assert install.endswith("|| exit 1")  # a failed download, uv's exit code 2, is worth a restart
    assert shlex.split(command)[-4:] == ["-m", "rgjax.main", "--distributed", "$@"]
    assert all(word.startswith("--") for word in container["args"])


def test_skypilot_task():
    (task,) = documents("skypilot.yaml")
    assert set(task) <= {"name", "resources", "workdir", "file_mounts", "setup", "run"}
    assert task["resources"]["use_spot"] is True
    assert task["resources"]["job_recovery"] in ("EAGER_NEXT_REGION", "FAILOVER")
    words = shlex.split(task["run"])
    assert words[words.index("-m") + 1] == "rgjax.sweep"
    (workdir,) = (word.partition("=")[2] for word in words if word.startswith("--workdir="))
    (mount,) = task["file_mounts"]
    assert workdir.startswith(f"{mount}/")  # so that it outlives a preemption


def free_job_id():
    """The number of a Slurm job whose coordinator port, by JAX's rule, is free."""
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
