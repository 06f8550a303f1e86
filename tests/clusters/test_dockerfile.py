"""The image: it cannot be built here, so its lines are looked at."""

import re
import tomllib

import pytest
from packaging.specifiers import SpecifierSet

from tests.clusters.files import CLUSTERS, check_shell

ROOT = CLUSTERS.parent
KNOWN = {"FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "CMD"}


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"(?m)^#.*\n", "", (CLUSTERS / "Dockerfile").read_text())
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def of(instructions: list[tuple[str, str]], name: str) -> list[str]:
    return [argument for each, argument in instructions if each == name]


def test_instructions_are_known_and_begin_with_one_base(instructions):
    assert {name for name, _ in instructions} <= KNOWN
    assert [name for name, _ in instructions].index("FROM") == 0
    assert len(of(instructions, "FROM")) == 1


def test_base_is_pinned_and_its_python_fits(instructions):
    (base,) = of(instructions, "FROM")
    pinned = re.fullmatch(r"python:(\d+\.\d+\.\d+)-[\w-]+@sha256:[0-9a-f]{64}", base)
    assert pinned
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert pinned[1] in SpecifierSet(project["requires-python"])


def test_commands_are_shell(instructions):
    assert of(instructions, "RUN")
    for command in of(instructions, "RUN"):
        check_shell(command)


def test_what_is_copied_is_there(instructions):
    for argument in of(instructions, "COPY"):
        *sources, _ = argument.split()
        for source in sources:
            path = ROOT / source
            assert path.is_dir() if source.endswith("/") else path.is_file()


def test_a_change_of_the_code_installs_nothing_anew(instructions):
    install = next(i for i, (_, argument) in enumerate(instructions) if "pip install" in argument)
    before = " ".join(of(instructions[:install], "COPY")).split()
    assert before == ["pyproject.toml", "constraints.txt", "./"]
    assert "-c constraints.txt" in instructions[install][1]


def test_it_does_not_run_as_root(instructions):
    (user,) = of(instructions, "USER")
    assert int(user) > 0
    assert all(name not in ("RUN", "COPY") for name, _ in instructions[-2:])
    assert any(f"--uid {user} " in each for each in of(instructions, "RUN"))


def test_what_kuberay_and_ray_up_call_is_installed(instructions):
    # KubeRay's probes call wget; Ray's DockerCommandRunner calls rsync in the container.
    (install,) = [each for each in of(instructions, "RUN") if "apt-get" in each]
    assert {"wget", "rsync"} <= set(install.split())
