"""Python runs the sweep that the command runs, and looks at the same results."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sweeps
from sweeps import open_result, run_sweep, sweep_spec
from sweeps.planning.search import with_learning_rates
from sweeps.planning.spec import SweepSpec
from tests.factories import spec_with
from tests.fake_sweep import FakeSweep
from trainables.errors import UserError

LAZY = """
import sys
import sweeps
assert not {"numpy", "tyro", "sweeps.fixres_grid"} & set(sys.modules), "importing takes no time"
from sweeps import SweepSpec, open_result, run_sweep, sweep_spec
sweep_spec(data="photos", train_res=[64])
print(sorted({"torch", "ray", "mlflow", "timm"} & set(sys.modules)))
"""


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Take back what the command's module sets for Ray."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def a_fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSweep:
    """A sweep in a folder beside its images."""
    fake = FakeSweep(tmp_path / "sweep" / "out", monkeypatch)
    (tmp_path / "photos").mkdir()
    fake.spec = spec_with(fake.spec, data=str(tmp_path / "photos"))
    return fake


def test_options_are_those_of_the_command() -> None:
    from sweeps.fixres_grid import parse

    found = sweep_spec(
        data=Path("/photos"),
        variants=("b0", "lite1"),
        train_res=[64, 96],
        test_res="auto",
        untouched=False,
        refit=True,
        lr=[1e-4, 1e-3],
        cache_gb=None,
        price_per_hour=["T4=0.5"],
    )
    words = "--data /photos --variants b0 lite1 --train-res 64 96 --test-res auto --no-untouched"
    more = "--refit --lr 1e-4 1e-3 --price-per-hour T4=0.5"
    assert found == parse([*words.split(), *more.split()])
    assert sweep_spec() == parse([]) and sweep_spec(epochs=2) == parse(["--epochs", "2"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epoch": 3}, r"epoch, which is no option: did you mean epochs\?"),
        ({"epochs": "many"}, "cannot be read: see the message above"),
    ],
)
def test_bad_options_are_user_errors(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        sweep_spec(**options)


def test_what_the_command_refuses_is_refused_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--data .*nowhere"):
        run_sweep(data=tmp_path / "nowhere", out=tmp_path / "out", cache_dir=tmp_path)
    with pytest.raises(UserError, match=r"a spec and options are given \(epochs\): give one"):
        run_sweep(SweepSpec(), epochs=3)
    with pytest.raises(UserError, match="dry_run makes no result"):
        run_sweep(dry_run=True)
    with pytest.raises(UserError, match="holds no finished sweep"):
        open_result(tmp_path)


def test_a_sweep_is_run_and_its_result_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = a_fake(tmp_path, monkeypatch)
    result = run_sweep(fake.spec, quiet=True)
    assert capsys.readouterr().out == ""
    assert result.out == fake.out and result.spec == with_learning_rates(fake.spec, 120)
    board = result.leaderboard
    assert len(board) == len(result.outcome.rows) > 4
    on_val = board[board["split"] == "val"]
    chosen = on_val[(on_val["cell"] == result.best.cell) & (on_val["arm"] == result.best.arm)]
    assert chosen["top1"].to_list() == [pytest.approx(result.best.top1)]
    assert result.best.label.split()[0] == "b0" and result.reason
    assert result.report == fake.out / "report.html"
    again = open_result(str(fake.out))
    assert again.best == result.best and again.outcome.choice == result.outcome.choice
    made = fake.made.copy()
    run_sweep(fake.spec, quiet=True)
    assert fake.made == made, "it is finished"


def test_where_parts_failed_the_results_are_opened_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = a_fake(tmp_path, monkeypatch)
    fake.lost_cells = 1
    result = run_sweep(fake.spec, quiet=True)
    assert len(result.outcome.failures) == 1 and result.best


def test_importing_loads_nothing() -> None:
    root = str(Path(sweeps.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", LAZY],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
    assert set(sweeps.__all__) <= set(dir(sweeps))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        sweeps.nothing  # noqa: B018
