"""The command line: options to a spec, help, exit codes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sweeps.planning.recipes import RECIPES, builtin_digits
from sweeps.planning.spec import SweepSpec
from sweeps.terminal.console import OutputClosedError, PlainConsole, Terminal
from tests.factories import is_one_sentence, spec_with
from tests.waiting import HANG_S
from trainables.data.cache import make_room, set_limit
from trainables.errors import SweepError, UserError
from trainables.models.variants import VARIANTS
from trainables.storage.hashing import to_jsonable

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The entry script as a module; what it sets in the environment for Ray is taken back."""
    before = dict(os.environ)
    from sweeps import fixres_grid

    yield fixres_grid
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def parse(script: ModuleType) -> Callable[..., SweepSpec]:
    return lambda *argv: script.parse(list(argv))


@pytest.fixture
def main(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own handlers
    return lambda *argv: script.main(list(argv))


def test_without_data_the_defaults_are_those_of_the_digits(parse: Any) -> None:
    assert parse() == builtin_digits()
    assert parse("--epochs", "9") == spec_with(builtin_digits(), epochs=9)


@pytest.mark.parametrize("data", [("--data", "/d"), ("--data=/d",)])
def test_with_data_the_defaults_are_the_documented_ones(parse: Any, data: tuple[str, ...]) -> None:
    assert parse(*data) == spec_with(data="/d")


@pytest.mark.parametrize("recipe", [("--recipe", "fixres"), ("--recipe=fixres",)])
def test_a_recipes_defaults_can_be_overridden(parse: Any, recipe: tuple[str, ...]) -> None:
    found = parse(*recipe, "--data", "/d", "--variants", "b0", "--test-res", "auto")
    assert found == spec_with(RECIPES["fixres"](), data="/d", variants=("b0",), test_res="auto")


def test_options_of_all_groups(parse: Any) -> None:
    found = parse(
        *("--data", "/d", "--variants", "b0", "lite1", "--train-res", "96", "--test-res", "96"),
        *("128", "--lr", "1e-4", "1e-2", "--optimizer", "sgd", "--no-dropout", "--reduction", "4"),
        *("--head-lr", "0.1", "--max-gmacs", "0.5", "--out", "o", "--seed", "7", "--dry-run"),
        *("--max-memory-mb", "30", "--price-per-hour", "2.5", "--keep", "front", "--refit"),
    )
    assert found == spec_with(
        data="/d",
        variants=("b0", "lite1"),
        train_res=(96,),
        test_res=(96, 128),
        lr=(1e-4, 1e-2),
        optimizer="sgd",
        dropout=False,
        reduction=4,
        head_lr=(0.1,),
        max_gmacs=0.5,
        max_memory_mb=30.0,
        price_per_hour=("2.5",),
        keep="front",
        refit=True,
        out=Path("o"),
        seed=7,
        dry_run=True,
    )


@pytest.mark.parametrize(
    "argv",
    [
        ["--no-such-option", "1"],
        ["--epochs", "many"],
        ["--optimizer", "adam"],
        ["--keep", "some"],
        ["--lr", "0.1"],
        ["stray"],
    ],
)
def test_what_cannot_be_read_ends_with_2_and_names_it(
    parse: Any, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse(*argv)
    said = capsys.readouterr()
    assert end.value.code == 2
    assert argv[0] in said.err and "Traceback" not in said.err


@pytest.mark.parametrize("width", ["60", "80", "100"])
def test_help_shows_every_option_with_its_default(
    parse: Any, width: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    with pytest.raises(SystemExit) as end:
        parse("--help")
    assert end.value.code == 0
    shown = " ".join(re.sub("[╭╮╰╯│─]", " ", capsys.readouterr().out).split())
    # Each option up to the next; its default stands at the end.
    parts = re.split(r"(?=--(?:no-)?[a-z0-9]+(?:-[a-z0-9]+)* )", shown)
    by_name = {part.split()[0].removeprefix("--").removeprefix("no-"): part for part in parts}
    for group in fields(SweepSpec):
        for field in fields(getattr(SweepSpec(), group.name)):
            part = by_name[field.name.rstrip("_").replace("_", "-")]
            default = to_jsonable(getattr(getattr(SweepSpec(), group.name), field.name))
            words = " ".join(map(str, default)) if isinstance(default, list) else str(default)
            assert f"(default: {words})" in part.replace("'", ""), part


def test_bad_input_ends_with_2_and_one_sentence(
    main: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("--epochs", "-1") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: --epochs -1 is out of bounds: give at least 0.\n"


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "the same command continues"),
        (SweepError("No trunk could be trained."), 1, "failed: No trunk could be trained."),
        (UserError("--out o is a file: name a folder."), 2, "error: --out o is a file"),
        (SweepError("Train at a lower `train_res`."), 1, "failed: Train at a lower --train-res."),
    ],
)
def test_an_end_before_the_end_is_told_in_a_line(
    main: Any,
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    code: int,
    words: str,
) -> None:
    def run(*_: object) -> None:
        raise raised

    monkeypatch.setattr("sweeps.sweep.run", run)
    assert main() == code
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_sweep_whose_output_nobody_reads_says_that_it_stopped(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object) -> None:
        read, write = os.pipe()
        os.close(read)
        with suppress(BrokenPipeError), os.fdopen(write, "w") as unread:
            Terminal(PlainConsole(file=unread)).say("trunk 1")
            pytest.fail("it was not noticed")
        raise OutputClosedError

    monkeypatch.setattr("sweeps.sweep.run", run)
    with pytest.raises(OutputClosedError):
        script._sweep([], "fixres_grid.py")
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "stopped, as nobody reads the output; the same command continues"


def test_an_unknown_variant_is_named_by_its_option(
    main: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("--variants", "nonsense") == 2
    known = ", ".join(VARIANTS)
    assert capsys.readouterr().err == (
        "error: --variants nonsense is not an EfficientNet this sweep knows: choose from "
        f"{known}, or give timm: and a name of timm's.\n"
    )


def test_errors_of_the_core_name_options(
    main: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(spec: SweepSpec, _: object) -> None:
        set_limit(tmp_path, spec.images.cache_gb)
        make_room(tmp_path, 6_000_000, spec.read.space_request(60))

    monkeypatch.setattr("sweeps.sweep.run", run)
    assert main("--cache-gb", "0.005") == 2
    assert capsys.readouterr().err == (
        f"error: The cache folder {tmp_path} has 5.0 MB left of --cache-gb 0.005 and of its disk, "
        "and 60 images at up to 1024 px need about 6.0 MB: choose a smaller --cache-side, or a "
        "larger --cache-gb or disk.\n"
    )


def test_a_sweep_that_ran_ends_with_0(
    main: Any, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[SweepSpec] = []
    monkeypatch.setattr("sweeps.sweep.run", lambda spec, terminal: asked.append(spec))
    assert main("--seed", "5") == 0
    assert asked == [spec_with(builtin_digits(), seed=5)]


def test_as_a_script_from_any_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "sweeps" / "fixres_grid.py"), "--variants", "b99"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = [text for text in done.stderr.splitlines() if text]
    assert line.startswith("error: --variants b99 ") and is_one_sentence(line)
    assert list(tmp_path.iterdir()) == []


def test_names_are_checked_before_anything_heavy_is_imported() -> None:
    """Those of arms, and those that MLflow is to take."""
    lines = [
        "import sys",
        "from sweeps import fixres_grid",
        "assert 'trainables.fixres.arms' in sys.modules",
        "assert fixres_grid.main(['--register-as', 'team/fix:net']) == 2",
        "heavy = {'torch', 'timm', 'torchvision', 'ray', 'mlflow'} & set(sys.modules)",
        "assert not heavy, heavy",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr


# --- files of the search ------------------------------------------------------------------------


def test_a_space_holds_where_options_say_the_same_and_is_kept_for_the_rest(
    parse: Any, tmp_path: Path
) -> None:
    space, points = tmp_path / "space.yaml", tmp_path / "points.json"
    space.write_text(
        "lr: {low: 1e-4, high: 1e-2}\nbatch_size: 64\noptimizer: {choices: [sgd, adamw]}\n"
    )
    points.write_text('[{"lr": 0.001}]')
    spec = parse("--space", str(space), "--try", str(points), "--searcher", "random")
    assert (spec.trunks.lr, spec.trunks.batch_size) == ((1e-4, 1e-2), 64)
    assert spec.search.space == {"optimizer": {"choices": ["sgd", "adamw"]}}
    assert (spec.search.try_, spec.search.searcher) == (({"lr": 0.001},), "random")
    space.write_text("lr: {low: 1e-4, high: 1e-2}\n")
    assert parse(f"--space={space}") == parse("--lr", "1e-4", "1e-2")


@pytest.mark.parametrize(
    ("entry", "typed"),
    [
        ("batch_size: 64", ["--batch-size", "32"]),
        ("batch_size: 64", ["--batch_size=32"]),
        ("lr: {choices: [1, 2]}", ["--lr", "1e-3", "1e-2"]),
        ("dropout: true", ["--no-dropout"]),
    ],
)
def test_an_option_beside_its_entry_is_refused(
    parse: Any, tmp_path: Path, entry: str, typed: list[str]
) -> None:
    (tmp_path / "s").write_text(entry)
    with pytest.raises(UserError, match=r"is given, and --space .*s has an entry \w+: leave one"):
        parse("--space", str(tmp_path / "s"), *typed)


def test_files_that_are_no_good_end_the_command_at_once(
    main: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad").write_text("lr: fast")
    for name in ("--space", "--try"):
        for path in (tmp_path / "bad", tmp_path / "missing"):
            assert main(name, str(path), "--out", str(tmp_path / "out")) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"error: {name} {path}") and is_one_sentence(line)
    assert not (tmp_path / "out").exists()
