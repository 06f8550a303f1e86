"""The cluster files are right as far as that can be told without a cloud."""

import copy
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

CLUSTERS = Path(__file__).parents[2] / "clusters"
# Ray's schema lets any key of the provider pass: these are the ones that its AWS provider reads.
AWS_PROVIDER_KEYS = {
    "type",
    "region",
    "availability_zone",
    "cache_stopped_nodes",
    "use_internal_ips",
    "key_pair",
    "security_group",
}


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTERS / name).read_text())


@pytest.fixture(scope="module")
def aws() -> dict[str, Any]:
    return load("aws.yaml")


@pytest.fixture(scope="module")
def run_instances() -> Any:
    """EC2's own description of what a node_config may hold, from botocore's files."""
    session = botocore.session.get_session()
    return session.get_service_model("ec2").operation_model("RunInstances").input_shape


def node_config_faults(node_config: dict[str, Any], shape: Any) -> str:
    """Unknown keys and wrong types, nested ones too; Ray itself fills in the counts."""
    report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **node_config}, shape)
    return report.generate_report()


def check(config: dict[str, Any], shape: Any) -> None:
    """All that can be wrong with an AWS cluster file; raises on the first fault."""
    validate_config(prepare_config(copy.deepcopy(config)))
    # What Ray's own check lets pass:
    assert set(config["provider"]) <= AWS_PROVIDER_KEYS
    assert config["auth"]["ssh_user"]
    for name, node_type in config["available_node_types"].items():
        assert 0 <= node_type["min_workers"] <= node_type["max_workers"], name
        assert node_type["max_workers"] <= config["max_workers"], name
        assert not node_config_faults(node_type["node_config"], shape), name


def test_aws_is_valid(aws, run_instances):
    check(aws, run_instances)


def rename(old: str, new: str, *path: str) -> Callable[[dict[str, Any]], None]:
    def mutate(config: dict[str, Any]) -> None:
        for key in path:
            config = config[key]
        config[new] = config.pop(old)

    return mutate


def put(value: Any, *path: str) -> Callable[[dict[str, Any]], None]:
    def mutate(config: dict[str, Any]) -> None:
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = value

    return mutate


GPU1 = ("available_node_types", "gpu1")
NODE = (*GPU1, "node_config")


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (rename("max_workers", "max_worker"), "max_worker"),
        (rename("idle_timeout_minutes", "idle_timeout_minute"), "idle_timeout_minute"),
        (rename("setup_commands", "setup_command"), "setup_command"),
        (rename("head_start_ray_commands", "head_start_commands"), "head_start_commands"),
        (rename("ssh_user", "user", "auth"), "user"),
        (rename("region", "regoin", "provider"), "regoin"),
        (rename("max_workers", "max_nodes", *GPU1), "max_nodes"),
        (rename("resources", "resource", *GPU1), "resource"),
        (rename("InstanceType", "Instancetype", *NODE), "Instancetype"),
        (rename("MarketType", "Market", *NODE, "InstanceMarketOptions"), "Market"),
        (put("4", *GPU1, "resources", "CPU"), "not of type 'integer'"),
        (put("five", "idle_timeout_minutes"), "not of type 'number'"),
        (put("*.jpg", "rsync_exclude"), "not of type 'array'"),
        (put("haed", "head_node_type"), "head_node_type"),
        (put(9, *GPU1, "min_workers"), "min_workers"),
        (put(9, *GPU1, "max_workers"), "gpu1"),
        (put({}, "auth"), "ssh_user"),
        (put("150", *NODE, "MaxCount"), "MaxCount"),
        (put({"Name": "x", "Arm": "y"}, *NODE, "IamInstanceProfile"), "Arm"),
    ],
)
def test_a_slip_is_caught(aws, run_instances, mutate, message):
    # Through JSON, as anchors make node types share their dicts.
    config = json.loads(json.dumps(aws))
    mutate(config)
    with pytest.raises(
        (ValidationError, ValueError, AssertionError, KeyError), match=re.escape(message)
    ):
        check(config, run_instances)


COMMANDS = ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands")


@pytest.mark.parametrize("key", COMMANDS)
def test_aws_commands_are_shell(aws, key):
    for command in aws[key]:
        # In parentheses, as Ray runs them.
        subprocess.run(["bash", "-n", "-c", f"true && ({command})"], check=True)


def workers(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    types = config["available_node_types"]
    return {name: each for name, each in types.items() if name != config["head_node_type"]}


def test_aws_head_runs_no_trials_and_is_not_spot(aws):
    head = aws["available_node_types"][aws["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert head["max_workers"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]
    assert not re.match(r"[gp]\d", head["node_config"]["InstanceType"])


def test_aws_workers_are_spot_gpus_that_go_when_idle(aws):
    assert {each["resources"]["GPU"] for each in workers(aws).values()} == {1, 4}
    for worker in workers(aws).values():
        assert worker["min_workers"] == 0
        assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert 0 < aws["idle_timeout_minutes"] <= 15
    assert aws["provider"]["cache_stopped_nodes"] is False


def test_aws_starts_ray_with_autoscaler_token_and_private_dashboard(aws):
    (start,) = [each for each in aws["head_start_ray_commands"] if "ray start" in each]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start
    assert "--dashboard-host=127.0.0.1" in start
    assert any("RAY_AUTH_MODE=token" in each for each in aws["setup_commands"])
    assert "/home/ubuntu/.ray/auth_token" in aws["file_mounts"]
    assert any("-c ~/fixres-sweeps/constraints.txt" in each for each in aws["setup_commands"])


def test_aws_mounts_files_of_this_repository(aws):
    for remote, local in aws["file_mounts"].items():
        if not local.startswith("~"):
            assert (CLUSTERS.parent / local).is_file(), remote


@pytest.mark.parametrize("path", sorted(CLUSTERS.iterdir()), ids=lambda path: path.name)
def test_no_secrets(path):
    text = path.read_text()
    assert not re.search(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b", text)
    assert not re.search(r"(?i)aws_(access|secret|session)|aws_credentials|PRIVATE KEY", text)
    assert not re.search(r"RAY_AUTH_TOKEN=", text)


def test_runtime_env_is_valid():
    config = load("runtime_env.yaml")
    assert RuntimeEnv(**config)["env_vars"] == config["env_vars"]
    # Ray takes an unknown key with no more than a warning.
    assert set(config) <= RuntimeEnv.known_fields


def test_runtime_env_values_are_strings():
    config = load("runtime_env.yaml")
    with pytest.raises(TypeError, match="env_vars"):
        RuntimeEnv(**{**config, "env_vars": {"RAY_USAGE_STATS_ENABLED": 0}})
