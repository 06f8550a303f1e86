"""What tests of several modules share: a few small pictures, and weights that behave."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.storing import s3, s3_of_session  # noqa: F401  (fixtures)

if TYPE_CHECKING:
    from trainables.data.image_set import ImageSet

# Ray's processes give way to others: beside another file's tests they would stand still.
os.environ.setdefault("RAY_worker_niceness", "0")

# What --fast leaves out: folders, modules and single tests, by how their names begin.
MARKED = {
    "ray": (
        "tests/docs/test_tutorial.py::test_the_commands_run",
        "tests/end_to_end/",
        "tests/sweeps/execution/test_other_nodes.py::test_what_fails_on_a_node",
        "tests/sweeps/execution/test_other_nodes.py::test_where_the_other_node",
        "tests/sweeps/execution/test_phases.py",
        "tests/sweeps/execution/test_run_works.py",
        "tests/sweeps/execution/test_tune_runner.py",
        "tests/trainables/ray_backend/",
    ),
    "server": (
        "tests/sweeps/output/test_lease.py",
        "tests/trainables/sources/test_downloads.py",
        "tests/trainables/storage/test_conditional.py",
        "tests/trainables/storage/test_fenced_log.py",
        "tests/trainables/storage/test_object_store.py",
        "tests/sweeps/tracking/test_tracker_refusals.py",
    ),
    "slow": (
        "tests/clusters/",
        "tests/test_npm_packages.py::test_a_server_that_never_answers",
        "tests/sweeps/demo/",
        "tests/sweeps/execution/test_gpu_memory.py",
        "tests/sweeps/execution/test_spreading.py",
        "tests/sweeps/final_model/",
        "tests/sweeps/planning/test_building.py",
        "tests/sweeps/planning/test_plan.py",
        "tests/sweeps/report/",
        "tests/sweeps/scheduling/test_extended_phase.py",
        "tests/sweeps/scheduling/test_proposals.py::test_learns_more_than_chance",
        "tests/sweeps/scheduling/test_proposals.py::test_tpe_learns",
        "tests/sweeps/scheduling/test_searchers.py",
        "tests/sweeps/scheduling/test_trunk_scheduler.py",
        "tests/sweeps/selection/test_choice.py::test_one_standard_error_of_the_paired_difference",
        "tests/sweeps/terminal/test_plan_tables.py",
        "tests/sweeps/test_measure_latency.py",
        "tests/sweeps/test_reselect.py",
        "tests/sweeps/test_select_best.py",
        "tests/sweeps/tracking/",
        "tests/trainables/data/test_builtin_digits.py",
        "tests/trainables/data/test_decode.py",
        "tests/trainables/export/",
        "tests/trainables/fixres/test_adapt.py",
        "tests/trainables/fixres/test_affine.py",
        "tests/trainables/fixres/test_families.py",
        "tests/trainables/fixres/test_features.py",
        "tests/trainables/fixres/test_heads.py::test_the_chosen_head_is_what_plain_loops",
        "tests/trainables/fixres/test_held_out_score.py",
        "tests/trainables/fixres/test_predictions.py",
        "tests/trainables/fixres/test_refit_cell.py",
        "tests/trainables/models/test_backbone.py",
        "tests/trainables/models/parts/",
        "tests/trainables/models/test_family.py",
        "tests/trainables/models/test_weights.py",
        "tests/trainables/profiling/",
        "tests/trainables/test_gpu_path.py",
        "tests/trainables/test_train.py",
        "tests/trainables/training/test_distributed.py",
        "tests/trainables/training/test_speed_ups.py",
        "tests/trainables/training/test_trainer.py",
        "tests/trainables/transforms/test_augmentation.py",
        "tests/trainables/transforms/test_finetune_augmentation.py",
        "tests/trainables/transforms/test_resolution.py::test_the_expected_share",
    ),
}
# And tests by what they take, wherever they are: a server, a whole net.
MARKED_FIXTURES = {"s3_of_session": "server", "lite0_weights": "slow", "tiny_weights": "slow"}
# Which files begin first: those that take longest, so that at the end no worker idles long;
# of the first two only one needs the sweep that many share.
FIRST = (
    "tests/end_to_end/test_job.py",
    "tests/trainables/ray_backend/test_worker_group.py",
    "tests/end_to_end/test_main_job.py",
    "tests/end_to_end/",
    "tests/docs/test_tutorial.py",
    *MARKED["ray"],
    *MARKED["server"],
    *MARKED["slow"],
)
ROOT = Path(__file__).parents[1]
TINTS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40)}
COUNTS = {"train": (8, 7, 7), "val": (5, 5, 5), "test": (3, 3, 3)}


def pytest_addoption(parser: pytest.Parser) -> None:
    words = (
        "leave out tests that are slow or start Ray or a server, without importing their modules"
    )
    parser.addoption("--fast", action="store_true", help=words)


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # else files of many tests begin first, however short


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    fast = config.getoption("--fast") and collection_path.is_file()
    name = collection_path.relative_to(ROOT).as_posix() if fast else ""
    return True if _marks_of(name) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        taken = MARKED_FIXTURES.keys() & set(getattr(item, "fixturenames", ()))
        for mark in {*_marks_of(item.nodeid), *(MARKED_FIXTURES[name] for name in taken)}:
            item.add_marker(mark)
    if config.getoption("--fast"):
        left_out = [item for item in items if any(map(item.get_closest_marker, MARKED))]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    items.sort(key=lambda item: _turn(item.nodeid.partition("::")[0]))


def _turn(file: str) -> int:
    """When a file begins; within a turn files begin in the order of their names."""
    turns = (i for i, start in enumerate(FIRST) if file.startswith(start))
    return next(turns, len(FIRST))


def _marks_of(name: str) -> list[str]:
    """The markers of a module or a test, by its name from the root."""
    return [mark for mark, starts in MARKED.items() if name.startswith(starts)]


@pytest.fixture(scope="session", autouse=True)
def _no_ray_if_fast(pytestconfig: pytest.Config) -> Iterator[None]:
    """With --fast a test that starts Ray fails, so that it gets its marker."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("this test starts Ray: name it in MARKED, tests/conftest.py")

    ray = sys.modules.get("ray") if pytestconfig.getoption("--fast") else None
    with pytest.MonkeyPatch.context() as patch:
        if ray is not None:
            patch.setattr(ray, "init", refuse)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Nets this small wait for their threads, on busy cores a hundred times as long."""
    torch = sys.modules.get("torch")  # imported by those tests that need it
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _one_thread_again() -> Iterator[None]:
    """What a test computes must not depend on the threads that the one before it asked for."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Decoded JPEGs of three classes, upright and oblong: 22 train, 15 val, 9 test."""
    from trainables.data.decode import prepare
    from trainables.data.options import ReadOptions

    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, counts in COUNTS.items():
        for (name, tint), count in zip(TINTS.items(), counts, strict=True):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                height, width = rng.integers(48, 96, 2)
                noise = rng.integers(0, 256, (height, width, 3))
                picture = (0.7 * noise + 0.3 * np.array(tint)).astype(np.uint8)
                Image.fromarray(picture).save(folder / split / name / f"{i}.jpg", quality=90)
    return prepare(folder, tmp_path_factory.mktemp("decoded"), ReadOptions())


@pytest.fixture(scope="session")
def lite0_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights for lite0 whose batch norms know what they see."""
    return _random_weights(tmp_path_factory.mktemp("weights"), "lite0")


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for the variant "tiny" (``tests/tiny_net.py``)."""
    from tests import tiny_net

    with tiny_net.known():
        return _random_weights(tmp_path_factory.mktemp("weights"), tiny_net.NAME)


@pytest.fixture(scope="module")
def tiny_known() -> Iterator[None]:
    """The family has the variant "tiny" for the tests of a module."""
    from tests import tiny_net

    with tiny_net.known():
        yield


def _random_weights(folder: Path, variant: str) -> Path:
    import timm
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = timm.create_model(f"tf_efficientnet_{variant}", num_classes=5)
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            net.train()(torch.randn(16, 3, 64, 64))
    save_file(net.state_dict(), folder / f"{variant}.safetensors")
    return folder
