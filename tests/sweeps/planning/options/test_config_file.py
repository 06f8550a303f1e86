"""Options from a file mean what they mean on the command line, which overrides them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeps.planning.options.config_file import as_words, read_config
from sweeps.planning.spec import SweepSpec, options_by_name
from trainables.errors import UserError

KNOWN = options_by_name(SweepSpec())


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "options.yaml"
    path.write_text(text)
    return path


def test_values_become_words_unless_they_are_the_default(tmp_path: Path) -> None:
    path = config(
        tmp_path,
        "variants: [b0, b1]\ntrain_res: 128\nuntouched: false\nrefit: true\nepochs: 30\n"
        "lr: [1e-4, 1e-3]\nval-share: 0.15\ncache-gb: null\ngroup-by: '-x'\ndata: s3://b/x\n",
    )
    assert as_words(read_config(path, KNOWN), KNOWN) == [
        *("--variants", "b0", "b1", "--train-res=128", "--no-untouched", "--refit"),
        *("--epochs=30", "--lr", "0.0001", "0.001", "--group-by=-x", "--data=s3://b/x"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch: 3", r"gives epoch, which is no option: did you mean epochs\?"),
        ("colour: 3", r"gives colour, which is no option: --help lists all options\."),
        ("config: other.yaml", "gives config, which is no option"),
        ("train-res: 3\ntrain_res: 4", "gives train_res twice: give it one value"),
        ("lr: {low: 1, high: 2}", "gives lr entries of its own: give it one value"),
        ("- epochs", "holds no options: write one a line"),
        ("", "holds no options"),
        ("epochs: [", r"cannot be read \(line 1: "),
    ],
)
def test_what_is_no_option_is_refused_by_its_name(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=rf"^--config .*{words}"):
        read_config(config(tmp_path, text), KNOWN)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--epochs", "7", "--train-res", "64", "96", "--seed", "5"],
        ["--data", "/x", "--variants", "b0", "lite1", "--test-res", "auto", "--no-untouched"],
        ["--data", "/x", "--recipe", "fixres", "--test-crop-pct", "weights", "1.0"],
        ["--data", "/x", "--refit", "--price-per-hour", "T4=0.5", "A10G=1", "--lr", "1e-4", "1e-3"],
        ["--data", "/x", "--also-test", "a=/y", "--cache-gb", "3.5", "--keep", "best", "--int8"],
    ],
)
def test_a_file_of_all_options_is_the_command_that_wrote_it(
    parse: Any, printed: Any, tmp_path: Path, argv: list[str]
) -> None:
    path = config(tmp_path, printed(argv))
    wanted, found = parse(argv), parse(["--config", str(path)])
    assert found == replace(wanted, run=replace(wanted.run, config=path))
    # The command line wins, over lists and switches too.
    other = ["--variants", "b2", "--epochs=1"]
    found, wanted = parse(["--config", str(path), *other]), parse([*argv, *other])
    assert found == replace(wanted, run=replace(wanted.run, config=path))


def test_files_of_the_search_are_named_in_it(parse: Any, printed: Any, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("lr: {low: 1e-4, high: 1e-3, log: true}\nbatch_size: {choices: [16, 32]}\n")
    argv = ["--data", "/x", "--space", str(space)]
    path = config(tmp_path, printed(argv))
    assert yaml.safe_load(path.read_text())["space"] == str(space)
    found = parse(["--config", str(path)])
    assert found.search == parse(argv).search and found.trunks == parse(argv).trunks


def test_secrets_are_not_printed(printed: Any) -> None:
    text = printed(["--data", "/x", "--tracking-uri", "http://me:secret@host:5000"])
    assert "secret" not in text and "host:5000" in text


@pytest.fixture
def parse() -> Any:
    from sweeps import fixres_grid

    return fixres_grid.parse


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    from sweeps import fixres_grid

    def text_of(argv: list[str]) -> str:
        assert fixres_grid.main([*argv, "--print-config"]) == 0
        return capsys.readouterr().out

    return text_of
