"""The files of `ray up` are right as far as that can be told without a cloud."""

import copy
import re
from typing import Any

import botocore.session
import click
import pytest
from botocore.validate import ParamValidator
from jsonschema import Draft202012Validator, ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.clusters.files import CLUSTERS, Config, check_shell, load, own, put, rename, schema

# Ray's schema lets any key of the provider pass: these are the ones that its providers read.
PROVIDER_KEYS = {
    "aws": {
        *("type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips"),
        *("key_pair", "security_group"),
    },
    "gcp": {
        *("type", "region", "availability_zone", "project_id", "cache_stopped_nodes"),
        *("use_internal_ips", "gcp_credentials"),
    },
    "local": {"type", "head_ip", "worker_ips", "external_head_ip"},
}
FILES = ("aws.yaml", "gcp.yaml", "onprem.yaml")
CLOUDS = ("aws.yaml", "gcp.yaml")
COMMANDS = (
    *("setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
)
GPU1 = ("available_node_types", "gpu1")
NODE = (*GPU1, "node_config")


@pytest.fixture(scope="module")
def run_instances() -> Any:
    """EC2's own description of what a node_config may hold, from botocore's files."""
    session = botocore.session.get_session()
    return session.get_service_model("ec2").operation_model("RunInstances").input_shape


def check(config: Config, run_instances: Any) -> None:
    """All that can be wrong with a file; raises on the first fault."""
    validate_config(prepare_config(copy.deepcopy(config)))
    # What Ray's own check lets pass:
    provider = config["provider"]
    assert set(provider) <= PROVIDER_KEYS[provider["type"]]
    assert config["auth"]["ssh_user"]
    if provider["type"] == "local":
        assert config["min_workers"] == config["max_workers"] == len(provider["worker_ips"])
        return
    google = Draft202012Validator(schema("gcp_instance.schema.json"))
    for name, node_type in config["available_node_types"].items():
        assert 0 <= node_type["min_workers"] <= node_type["max_workers"], name
        assert node_type["max_workers"] <= config["max_workers"], name
        if provider["type"] == "aws":
            # Ray itself fills in the counts.
            asked = {"MinCount": 1, "MaxCount": 1, **node_type["node_config"]}
            report = ParamValidator().validate(asked, run_instances)
            assert not report.has_errors(), report.generate_report()
        else:
            google.validate(node_type["node_config"])


@pytest.mark.parametrize("name", FILES)
def test_it_is_valid(name, run_instances):
    check(load(name), run_instances)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (rename("max_workers", "max_worker"), "max_worker"),
        (rename("idle_timeout_minutes", "idle_timeout_minute"), "idle_timeout_minute"),
        (rename("setup_commands", "setup_command"), "setup_command"),
        (rename("head_start_ray_commands", "head_start_commands"), "head_start_commands"),
        (rename("ssh_user", "user", "auth"), "user"),
        (put("five", "idle_timeout_minutes"), "not of type 'number'"),
        (put("*.jpg", "rsync_exclude"), "not of type 'array'"),
        (put(1, "provider", "regoin"), "regoin"),
        (put({}, "auth"), "ssh_user"),
    ],
)
def test_a_slip_is_caught(name, run_instances, mutate, message):
    is_caught(name, run_instances, mutate, message)


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (rename("max_workers", "max_nodes", *GPU1), "max_nodes"),
        (rename("resources", "resource", *GPU1), "resource"),
        (put("4", *GPU1, "resources", "CPU"), "not of type 'integer'"),
        (put("haed", "head_node_type"), "head_node_type"),
        (put(9, *GPU1, "min_workers"), "min_workers"),
        (put(9, *GPU1, "max_workers"), "gpu1"),
    ],
)
def test_a_slip_in_a_node_type_is_caught(name, run_instances, mutate, message):
    is_caught(name, run_instances, mutate, message)


@pytest.mark.parametrize(
    ("name", "mutate", "message"),
    [
        ("aws.yaml", rename("region", "regoin", "provider"), "regoin"),
        ("aws.yaml", rename("InstanceType", "Instancetype", *NODE), "Instancetype"),
        ("aws.yaml", rename("MarketType", "Market", *NODE, "InstanceMarketOptions"), "Market"),
        ("aws.yaml", put("150", *NODE, "MaxCount"), "MaxCount"),
        ("aws.yaml", put({"Name": "x", "Arm": "y"}, *NODE, "IamInstanceProfile"), "Arm"),
        ("gcp.yaml", rename("machineType", "machinetype", *NODE), "machinetype"),
        ("gcp.yaml", rename("disks", "disk", *NODE), "disk"),
        ("gcp.yaml", put(200, *NODE, "disks", 0, "initializeParams", "diskSizeGb"), "200"),
        ("gcp.yaml", put("SPOTTY", *NODE, "scheduling", "provisioningModel"), "SPOTTY"),
        ("gcp.yaml", put({"second": "1"}, *NODE, "scheduling", "maxRunDuration"), "second"),
        ("gcp.yaml", put("all", *NODE, "serviceAccounts", 0, "scopes"), "all"),
        ("onprem.yaml", put(3, "min_workers"), "3 == 2"),
        ("onprem.yaml", rename("worker_ips", "workers", "provider"), None),
        ("onprem.yaml", rename("head_ip", "head", "provider"), None),
        ("onprem.yaml", put({"x": {}}, "available_node_types"), None),
    ],
)
def test_a_slip_in_the_cloud_s_own_part_is_caught(name, run_instances, mutate, message):
    is_caught(name, run_instances, mutate, message)


def is_caught(name: str, run_instances: Any, mutate: Any, message: str | None) -> None:
    config = own(load(name))
    mutate(config)
    faults = (ValidationError, ValueError, AssertionError, KeyError, click.ClickException)
    # Ray prints what is wrong with a file of fixed machines, and raises without a word.
    with pytest.raises(faults, match=message and re.escape(message)):
        check(config, run_instances)


@pytest.mark.parametrize("name", FILES)
def test_commands_are_shell(name):
    commands = [command for key in COMMANDS for command in load(name)[key]]
    assert len(commands) > 5
    for command in commands:
        check_shell(command)


def workers(config: Config) -> Config:
    types = config["available_node_types"]
    return {name: each for name, each in types.items() if name != config["head_node_type"]}


def is_spot(config: Config, node_type: Config) -> bool:
    node = node_type["node_config"]
    if config["provider"]["type"] == "aws":
        return node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    return node["scheduling"]["provisioningModel"] == "SPOT"


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_runs_no_trials_and_is_not_spot(name):
    config = load(name)
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert head["max_workers"] == 0
    assert not is_spot(config, head)
    machine = head["node_config"].get("InstanceType") or head["node_config"]["machineType"]
    assert not re.match(r"[gp]\d|a[23]", machine)


@pytest.mark.parametrize("name", CLOUDS)
def test_workers_are_spot_gpus_that_go_when_idle(name):
    config = load(name)
    assert {each["resources"]["GPU"] for each in workers(config).values()} == {1, 4}
    for worker in workers(config).values():
        assert worker["min_workers"] == 0
        assert is_spot(config, worker)
    assert 0 < config["idle_timeout_minutes"] <= 15
    assert config["provider"]["cache_stopped_nodes"] is False


@pytest.mark.parametrize("name", CLOUDS)
def test_a_worker_heeds_its_cloud_s_notice(name):
    config = load(name)
    (watch,) = [each for each in config["worker_start_ray_commands"] if "spot_notice.py" in each]
    assert f"spot_notice.py {config['provider']['type']}" in watch
    assert not [each for each in config["head_start_ray_commands"] if "spot_notice.py" in each]


def test_the_hours_are_bounded():
    aws = load("aws.yaml")
    (end,) = [each for each in aws["head_start_ray_commands"] if "shutdown" in each]
    minutes = re.fullmatch(r"sudo shutdown -h \+(\d+)", end)
    assert minutes and 0 < int(minutes[1]) <= 72 * 60
    for node_type in aws["available_node_types"].values():
        assert node_type["node_config"]["InstanceInitiatedShutdownBehavior"] == "terminate"
    for node_type in load("gcp.yaml")["available_node_types"].values():
        scheduling = node_type["node_config"]["scheduling"]
        assert 0 < int(scheduling["maxRunDuration"]["seconds"]) <= 72 * 3600
        assert scheduling["instanceTerminationAction"] == "DELETE"


@pytest.mark.parametrize("name", FILES)
def test_ray_starts_with_autoscaler_token_and_private_dashboard(name):
    config = load(name)
    (start,) = [each for each in config["head_start_ray_commands"] if "ray start" in each]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start
    assert "--dashboard-host=127.0.0.1" in start
    assert any("RAY_AUTH_MODE=token" in each for each in config["setup_commands"])
    assert "~/.ray/auth_token" in config["file_mounts"].values()
    assert any("-c ~/fixres-sweeps/constraints.txt" in each for each in config["setup_commands"])


@pytest.mark.parametrize("name", FILES)
def test_it_mounts_files_of_this_repository_and_starts_what_it_mounts(name):
    config = load(name)
    mounts = config["file_mounts"]
    for remote, local in mounts.items():
        if not local.startswith("~"):
            assert (CLUSTERS.parent / local).is_file(), remote
    mounted = {remote.rpartition("/")[2] for remote in mounts}
    text = " ".join(command for key in COMMANDS for command in config[key])
    started = set(re.findall(r"fixres-sweeps/(\w+\.py)", text))
    assert "tracking_server.py" in started
    assert started <= mounted
    assert {each for each in mounted if each.endswith(".py")} == started
