"""kuberay.yaml against KubeRay's own schema, and what a schema cannot say."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError

from tests.clusters.files import CLUSTERS, Config, own, put, rename, schema

SPEC = ("spec", "rayClusterSpec")
HEAD = (*SPEC, "headGroupSpec")
WORKER = (*SPEC, "workerGroupSpecs", 0)
POD = (*WORKER, "template", "spec")
CONTAINER = (*POD, "containers", 0)
GPU = "nvidia.com/gpu"


@pytest.fixture(scope="module")
def documents() -> list[Config]:
    return list(yaml.safe_load_all((CLUSTERS / "kuberay.yaml").read_text()))


@pytest.fixture(scope="module")
def job(documents) -> Config:
    (found,) = (each for each in documents if each["kind"] == "RayJob")
    return found


@pytest.fixture(scope="module")
def rayjob() -> Draft202012Validator:
    return Draft202012Validator(schema("kuberay_rayjob.schema.json"))


def test_it_is_a_ray_job(job, rayjob):
    rayjob.validate(job)


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (rename("entrypoint", "entryPoint", "spec"), "entryPoint"),
        (rename("activeDeadlineSeconds", "activeDeadline", "spec"), "activeDeadline"),
        (rename("enableInTreeAutoscaling", "enableAutoscaling", *SPEC), "enableAutoscaling"),
        (rename("mode", "mod", *SPEC, "authOptions"), "mod"),
        (rename("rayStartParams", "rayStartParam", *WORKER), "rayStartParam"),
        (rename("maxReplicas", "maxReplica", *WORKER), "maxReplica"),
        (rename("tolerations", "toleration", *POD), "toleration"),
        (rename("preStop", "prestop", *CONTAINER, "lifecycle"), "prestop"),
        (rename("limits", "limit", *CONTAINER, "resources"), "limit"),
        (rename("mountPath", "path", *CONTAINER, "volumeMounts", 0), "path"),
        (put(0, *HEAD, "rayStartParams", "num-cpus"), "not of type 'string'"),
        (put(60, *CONTAINER, "env", 0, "value"), "not of type 'string'"),
        (put("8", *WORKER, "maxReplicas"), "not of type 'integer'"),
        (put("v3", *SPEC, "autoscalerOptions", "version"), "v3"),
        (put("tokens", *SPEC, "authOptions", "mode"), "tokens"),
        (put("four", *CONTAINER, "resources", "limits", GPU), "four"),
        (put("python x.py", *CONTAINER, "lifecycle", "preStop", "exec", "command"), "python x.py"),
    ],
)
def test_a_slip_is_caught(job, rayjob, mutate, message):
    mutated = own(job)
    mutate(mutated)
    with pytest.raises(ValidationError, match=re.escape(message)):
        rayjob.validate(mutated)


def test_pods_have_accounts_of_this_file_with_no_more_than_they_need(documents, job):
    # https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/service-account-v1
    known = {"apiVersion", "kind", "metadata", "automountServiceAccountToken"}
    accounts = {d["metadata"]["name"]: d for d in documents if d["kind"] == "ServiceAccount"}
    for account in accounts.values():
        assert set(account) <= known
        assert set(account["metadata"]) <= {"name", "annotations"}
    spec = job["spec"]["rayClusterSpec"]
    used = {spec["headGroupSpec"]["template"]["spec"]["serviceAccountName"]}
    for group in spec["workerGroupSpecs"]:
        name = group["template"]["spec"]["serviceAccountName"]
        assert accounts[name]["automountServiceAccountToken"] is False
        used.add(name)
    assert used == set(accounts)


def groups(job: Config) -> list[Config]:
    return job["spec"]["rayClusterSpec"]["workerGroupSpecs"]


def test_workers_are_spot_gpus_that_go_when_idle(job):
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert 0 < cluster["autoscalerOptions"]["idleTimeoutSeconds"] <= 900
    found = set()
    for group in groups(job):
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]
        pod = group["template"]["spec"]
        assert "SPOT" in pod["nodeSelector"].values()
        resources = pod["containers"][0]["resources"]
        assert resources["requests"][GPU] == resources["limits"][GPU]
        found.add(resources["limits"][GPU])
    assert found == {"1", "4"}


def test_the_head_runs_no_trials(job):
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "SPOT" not in head["template"]["spec"]["nodeSelector"].values()
    for container in head["template"]["spec"]["containers"]:
        assert GPU not in container["resources"]["limits"]


def test_trials_have_the_time_to_save_before_their_pod_is_stopped(job):
    for group in groups(job):
        pod = group["template"]["spec"]
        command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert command[1].endswith("clusters/spot_notice.py") and command[2] == "now"
        assert float(command[command.index("--wait") + 1]) < pod["terminationGracePeriodSeconds"]


def test_the_job_ends_and_takes_its_cluster_along(job):
    spec = job["spec"]
    assert 0 < spec["activeDeadlineSeconds"] <= 72 * 3600
    assert spec["shutdownAfterJobFinishes"] is True
    assert 0 < spec["ttlSecondsAfterFinished"] <= 3600


def test_nothing_runs_as_root_or_with_another_image(job):
    cluster = job["spec"]["rayClusterSpec"]
    templates = [cluster["headGroupSpec"]["template"], *(g["template"] for g in groups(job))]
    images = set()
    for template in templates:
        security = template["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True
        assert f"USER {security['runAsUser']}\n" in (CLUSTERS / "Dockerfile").read_text()
        images |= {container["image"] for container in template["spec"]["containers"]}
    assert len(images) == 1
    project = tomllib.loads((CLUSTERS.parent / "pyproject.toml").read_text())["project"]
    assert images == {f"{project['name']}:{project['version']}"}


def test_ray_is_the_version_of_the_image(job):
    pinned = re.search(r"(?m)^ray==(.+)$", (CLUSTERS.parent / "constraints.txt").read_text())
    assert pinned and job["spec"]["rayClusterSpec"]["rayVersion"] == pinned[1]


def _strings(part: Any) -> list[str]:
    if isinstance(part, str):
        return [part]
    children = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return [text for child in children for text in _strings(child)]


def test_files_of_the_image_are_in_the_image(job):
    named = {
        path
        for text in _strings(job)
        for path in re.findall(r"/opt/fixres-sweeps/([\w/.]+\.py)", text)
    }
    assert {Path(each).name for each in named} == {
        *("fixres_grid.py", "spot_notice.py", "tracking_server.py")
    }
    copied = re.findall(r"(?m)^COPY (.+) \S+$", (CLUSTERS / "Dockerfile").read_text())
    sources = {source.rstrip("/") for line in copied for source in line.split()}
    for name in named:
        assert (CLUSTERS.parent / name).is_file()
        assert {name, *map(str, Path(name).parents)} & sources
