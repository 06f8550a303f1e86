"""What holds of all cluster files, and between them and their page."""

import json
import re

import pytest
from ray.runtime_env import RuntimeEnv

from tests.clusters.files import CLUSTERS, load

FILES = sorted(path for path in CLUSTERS.iterdir() if path.is_file())
PAGE = (CLUSTERS / "README.md").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_secrets(path):
    text = path.read_text()
    assert not re.search(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b", text)
    assert not re.search(
        r"(?i)aws_(access|secret|session)|aws_credentials|PRIVATE KEY|private_key_id", text
    )
    assert not re.search(r"RAY_AUTH_TOKEN=|://[^/\s]+:[^/\s]+@", text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_page_names_every_file(path):
    assert path.name == "README.md" or path.name in PAGE


def test_the_page_names_no_file_that_is_not_there():
    for name in set(re.findall(r"clusters/([\w.-]+\.\w+|Dockerfile)", PAGE)):
        assert (CLUSTERS / name).is_file(), name


def test_the_memory_of_a_gpu_is_the_same_in_pages_and_files():
    pages = PAGE + (CLUSTERS / "kuberay.yaml").read_text()
    told = set(re.findall(r"--gpu-memory-gb (\d+)", pages))
    for name in ("aws.yaml", "gcp.yaml", "kuberay.yaml"):
        found = set(
            re.findall(r"(?m)(\d+) GB(?: each| of GPU memory|$)", (CLUSTERS / name).read_text())
        )
        assert found == told == {"24"}, name


def test_runtime_env_is_valid():
    config = load("runtime_env.yaml")
    assert RuntimeEnv(**config)["env_vars"] == config["env_vars"]
    # Ray takes an unknown key with no more than a warning.
    assert set(config) <= RuntimeEnv.known_fields


def test_runtime_env_values_are_strings():
    config = load("runtime_env.yaml")
    with pytest.raises(TypeError, match="env_vars"):
        RuntimeEnv(**{**config, "env_vars": {"RAY_USAGE_STATS_ENABLED": 0}})


def test_the_bucket_s_policy_gives_one_bucket_and_no_more():
    policy = json.loads((CLUSTERS / "aws-s3-policy.json").read_text())
    actions: dict[str, set[str]] = {}
    for statement in policy["Statement"]:
        assert set(statement) == {"Effect", "Action", "Resource"}
        assert statement["Effect"] == "Allow"
        actions[statement["Resource"]] = set(statement["Action"])
    bucket, objects = sorted(actions, key=len)
    assert objects == f"{bucket}/*" and bucket.startswith("arn:aws:s3:::") and "*" not in bucket
    # A bucket is listed as a whole; what is done to an object is asked of the object.
    assert "s3:ListBucket" in actions[bucket]
    assert {"s3:GetObject", "s3:PutObject", "s3:DeleteObject"} <= actions[objects]
    assert not any("*" in action for each in actions.values() for action in each)
