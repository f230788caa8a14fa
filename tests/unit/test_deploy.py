"""The files in deploy/ by the rules of those who read them: Kubernetes' own schemas, Ray's reading of a RayCluster,
shellcheck, hadolint, and ours for what must agree between places. No cluster, no network."""

import os
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from hpa_ray.config import config_keys, load_config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = {
    manifest["kind"]: manifest for manifest in yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text()) if manifest
}
CLUSTER = MANIFESTS["RayJob"]["spec"]["rayClusterSpec"]
HEAD = CLUSTER["headGroupSpec"]
WORKERS = {group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}
GROUPS = {"head": HEAD, **WORKERS}
KUBERNETES = ["1.29", "1.33", kubernetes_validate.latest_version()]
UNITS = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def quantity(text: str) -> float:
    digits = text.rstrip("mKMGi")
    return float(digits) * UNITS[text[len(digits) :]]


def container(group: dict[str, Any]) -> dict[str, Any]:
    only: dict[str, Any]
    [only] = group["template"]["spec"]["containers"]
    return only


def environment(group: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container(group).get("env", [])}


def volumes(group: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Mount path -> the emptyDir there."""
    by_name = {volume["name"]: volume["emptyDir"] for volume in group["template"]["spec"]["volumes"]}
    return {mount["mountPath"]: by_name.pop(mount["name"]) for mount in container(group)["volumeMounts"]}


# ---- RayJob and RayCluster: the fields that KubeRay 1.6 knows, as far as we use any of them; no others


def record(required: str = "", **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


TEXT, NUMBER, YES_NO = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
POD = {"type": "object"}  # by Kubernetes' own schema, below
GROUP = {"rayStartParams": TEXTS, "template": POD, "labels": TEXTS, "resources": TEXTS}
RAY_CLUSTER = record(
    "headGroupSpec",
    rayVersion=TEXT,
    authOptions=record("mode", mode={"enum": ["token"]}, secretName=TEXT),
    enableInTreeAutoscaling=YES_NO,
    autoscalerOptions=record(
        version={"enum": ["v1", "v2"]},
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        idleTimeoutSeconds=NUMBER,
        resources={"type": "object"},
        securityContext={"type": "object"},
        env={"type": "array"},
    ),
    headGroupSpec=record(
        "rayStartParams template",
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        enableIngress=YES_NO,
        **GROUP,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": record(
            "groupName minReplicas maxReplicas rayStartParams template",
            groupName={"type": "string", "maxLength": 63},
            minReplicas=NUMBER,
            replicas=NUMBER,
            maxReplicas=NUMBER,
            numOfHosts=NUMBER,
            idleTimeoutSeconds=NUMBER,
            **GROUP,
        ),
    },
)
RAY_JOB = record(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=record("name", name={"type": "string", "maxLength": 47}, namespace=TEXT, labels=TEXTS),
    spec=record(
        "entrypoint rayClusterSpec",
        entrypoint=TEXT,
        backoffLimit=NUMBER,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode"]},
        shutdownAfterJobFinishes=YES_NO,
        ttlSecondsAfterFinished=NUMBER,
        activeDeadlineSeconds=NUMBER,
        suspend=YES_NO,
        runtimeEnvYAML=TEXT,
        rayClusterSpec=RAY_CLUSTER,
    ),
)


def test_the_job_has_fields_that_kuberay_knows() -> None:
    Draft202012Validator.check_schema(RAY_JOB)
    check = Draft202012Validator(RAY_JOB)
    check.validate(MANIFESTS["RayJob"])
    wrong = yaml.safe_load(yaml.safe_dump(MANIFESTS["RayJob"]))
    wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["label"] = {}
    with pytest.raises(ValidationError, match="'label' was unexpected"):
        check.validate(wrong)


@pytest.mark.parametrize("release", KUBERNETES)
def test_kubernetes_takes_what_is_its_own(release: str) -> None:
    for kind in ("ServiceAccount", "NetworkPolicy"):
        kubernetes_validate.validate(MANIFESTS[kind], release, strict=True)
    for group in GROUPS.values():
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": group["template"]}
        kubernetes_validate.validate(pod, release, strict=True)
        pod["template"] = {**pod["template"], "spec": {**pod["template"]["spec"], "serviceAccount_name": "x"}}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(pod, release, strict=True)
    assert set(MANIFESTS) == {"ServiceAccount", "NetworkPolicy", "RayJob"}


def test_rays_autoscaler_sees_the_nodes_that_are_meant() -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    config = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "x", "namespace": "y"}, "spec": CLUSTER})
    nodes = config["available_node_types"]
    head = nodes.pop("headgroup")
    assert head["resources"]["CPU"] == 0
    assert {name: (node["min_workers"], node["labels"]) for name, node in nodes.items()} == {
        "data": (1, {"ray-subcluster": "data"}),
        "training": (0, {"hpa-ray/role": "training"}),
    }
    assert nodes["training"]["resources"]["GPU"] == 1
    assert "GPU" not in nodes["data"]["resources"]
    coming = {
        f"hpa-ray/{name}-{kind.lower()}s": str(node["max_workers"] * node["resources"][kind])
        for name, node in nodes.items()
        for kind in ("CPU", "GPU")
        if kind in node["resources"]
    }
    assert head["labels"] == coming, "the head says what the groups may come to"


def test_labels_are_where_the_autoscaler_looks() -> None:
    for group in GROUPS.values():
        assert not {"labels", "resources"} & group["rayStartParams"].keys()


def test_what_ray_is_told_fits_what_the_pod_gets() -> None:
    for name, group in GROUPS.items():
        resources, params = container(group)["resources"], group["rayStartParams"]
        assert resources["requests"] == resources["limits"], name
        limits = {key: quantity(value) for key, value in resources["limits"].items()}
        assert params.get("num-cpus") == ("0" if name == "head" else None), "KubeRay reads it off the limits"
        assert "num-gpus" not in params
        assert ("nvidia.com/gpu" in limits) == (name == "training")
        places = volumes(group)
        shm = places["/dev/shm"]
        assert shm["medium"] == "Memory"
        assert int(params["object-store-memory"]) < quantity(shm["sizeLimit"]) < limits["memory"] / 2
        on_disk = sum(quantity(place["sizeLimit"]) for place in places.values() if "medium" not in place)
        assert on_disk < limits["ephemeral-storage"], name
        if spill := params.get("object-spilling-directory"):
            assert spill in places
        assert group["template"]["spec"]["restartPolicy"] == "Never"


def test_a_pod_that_goes_has_the_time_for_a_checkpoint() -> None:
    for group in GROUPS.values():
        grace = group["template"]["spec"]["terminationGracePeriodSeconds"]
        assert 60 <= float(environment(group)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) <= grace - 20
    stop = int(environment(HEAD)["RAY_JOB_STOP_WAIT_TIME_S"])
    assert 60 <= stop <= HEAD["template"]["spec"]["terminationGracePeriodSeconds"] - 20


def test_ray_knows_the_settings_by_these_names() -> None:
    from ray._private import ray_constants
    from ray.dashboard.modules.job import job_supervisor

    assert ray_constants.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S == 30
    assert '"RAY_JOB_STOP_WAIT_TIME_S"' in Path(job_supervisor.__file__).read_text()


def test_nothing_is_open_and_no_secret_stands_there() -> None:
    assert HEAD["serviceType"] == "ClusterIP"
    assert CLUSTER["authOptions"] == {"mode": "token"}
    policy = MANIFESTS["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert not any("ipBlock" in peer for rule in policy["ingress"] for peer in rule["from"])
    for name, group in GROUPS.items():
        template = group["template"]
        assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items(), name
        spec = template["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert spec["serviceAccountName"] == MANIFESTS["ServiceAccount"]["metadata"]["name"]
        assert spec.get("automountServiceAccountToken", True) == (name == "head"), "the autoscaler runs on the head"
        assert spec["securityContext"]["runAsNonRoot"]
        assert not container(group)["securityContext"]["allowPrivilegeEscalation"]
        assert not any("hostPort" in port for port in container(group).get("ports", []))
    for name in environment(HEAD) | environment(WORKERS["data"]) | environment(WORKERS["training"]):
        assert not any(word in name for word in ("KEY", "SECRET", "TOKEN", "PASSWORD")), name


def test_the_entrypoint_is_a_run_that_goes_on() -> None:
    python, job, *words = shlex.split(MANIFESTS["RayJob"]["spec"]["entrypoint"])
    assert python == "python"
    workdir = next(line.split()[1] for line in instructions() if line.startswith("WORKDIR"))
    assert job == f"{workdir}/jobs/train.py"
    assert (ROOT / "jobs" / "train.py").exists()
    assert {word.partition("=")[0] for word in words} <= config_keys().keys()
    config = load_config(words)
    assert config.run.resume
    assert config.run.name
    assert config.run.storage is not None
    assert config.train.use_gpu
    for place in (config.run.storage, config.data.shards, config.data.split):
        assert place is not None
        assert "://" in place, "pods share no disk"
    gpus = int(container(WORKERS["training"])["resources"]["limits"]["nvidia.com/gpu"])
    assert config.train.num_workers == WORKERS["training"]["maxReplicas"] * gpus


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [ray] = [line for line in project["project"]["dependencies"] if line.startswith("ray[")]
    assert fnmatch(CLUSTER["rayVersion"], ray.partition("==")[2])
    assert CLUSTER["rayVersion"] == version("ray"), "with which it was tested"
    images = {container(group)["image"] for group in GROUPS.values()}
    assert images == {f"REGISTRY/hpa_ray:{project['project']['version']}"}


# ---- the image


def instructions() -> list[str]:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize(
    "command",
    [["bash", "-n", "slurm.sbatch"], ["shellcheck", "slurm.sbatch"], ["hadolint", "Dockerfile"]],
)
def test_who_knows_the_language_has_nothing_to_say(command: list[str]) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if shutil.which(command[0], path=path) is None:
        pytest.skip(f"there is no {command[0]} for this platform in the group dev")
    done = subprocess.run(command, cwd=DEPLOY, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_holds_what_it_needs_and_runs_as_the_pods_say() -> None:
    lines = instructions()
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().split("\n")
    kept = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)
    assert sum("uv sync --no-dev" in line for line in lines) == 2
    security = HEAD["template"]["spec"]["securityContext"]
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}" in lines
    assert any(line.startswith("ENV PATH=/opt/hpa_ray/.venv/bin:") for line in lines)
    assert any(" wget" in line for line in lines)


# ---- Slurm

SBATCH = DEPLOY / "slurm.sbatch"


def test_slurm_queues_it_again_and_warns_it() -> None:
    lines = SBATCH.read_text().splitlines()
    first_command = next(k for k, line in enumerate(lines) if line and not line.startswith("#"))
    options = [line.split()[1] for line in lines[:first_command] if line.startswith("#SBATCH ")]
    assert len(options) == sum(line.startswith("#SBATCH") for line in lines), "after a command Slurm reads none"
    assert {"--requeue", "--signal=B:TERM@120", "--open-mode=append", "--ntasks-per-node=1"} <= set(options)
    for words in ("ray stop", "pkill", "killall"):
        assert not any(words in line for line in lines), "other Rays of this user live on"


def test_a_head_that_does_not_start_ends_the_job_at_once(tmp_path: Path) -> None:
    """And the token goes; it was ours alone."""
    srun = tmp_path / "srun"
    seen = tmp_path / "seen"
    folder = '"${RAY_AUTH_TOKEN_PATH%/*}"'
    srun.write_text(
        f"#!/bin/sh\nstat -c %a {folder} {folder}/token >{seen}\nwc -c <{folder}/token >>{seen}\n"
        f"touch {folder}/head_ended\nexit 1\n"
    )
    srun.chmod(stat.S_IRWXU)
    done = subprocess.run(
        ["bash", SBATCH, "train.epochs=1"],
        env={
            **os.environ,
            "PATH": f"{tmp_path}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "HPA_RAY_SHARED": str(tmp_path / "shared"),
            "HPA_RAY_WAIT_S": "30",
            "HPA_RAY_COMMAND": f"touch {tmp_path}/ran",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "the head has ended" in done.stderr
    assert seen.read_text().split() == ["700", "600", "64"]
    assert os.listdir(tmp_path / "shared") == []
    assert not (tmp_path / "ran").exists()
