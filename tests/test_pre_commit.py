"""The hooks of a commit run what ``make check`` runs, no more and no less."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def test_hooks_are_the_commands_of_make_check():
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(r"(?m)^check:.*\n((?:\t.*\n)+)", makefile)
    assert recipe
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert [hook["entry"] for hook in hooks] == commands
    for hook in hooks:
        # With the environment's own tools, on the whole tree, as make does.
        assert hook["language"] == "system" and hook["pass_filenames"] is False
