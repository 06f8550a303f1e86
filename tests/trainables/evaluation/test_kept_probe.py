"""A probe is kept under all that it depends on, and fitted once for the processes of a node."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.waiting import wait_until
from trainables.data.view_cache import ViewCache
from trainables.evaluation import kept_probe
from trainables.evaluation.kept_probe import ProbeSpec, fit_once
from trainables.evaluation.linear_probe import Probe
from trainables.models.weights import Weights
from trainables.storage.artifact_store import Store

WEIGHTS = Weights(variant="lite0", source="made up", digest="d", name="lite0-d", classes=1000)
SPEC = ProbeSpec(weights=WEIGHTS, train_res=64, images="digest", class_weights="none")


def a_probe() -> Probe:
    generator = torch.Generator().manual_seed(0)
    return Probe(
        torch.randn(3, 5, generator=generator).T.contiguous().T, torch.randn(3, generator=generator)
    )


def asked(root: Path, spec: ProbeSpec = SPEC) -> tuple[Probe, float]:
    """Ask for the probe, of what no fit of these tests looks at."""
    nothing: Any = None
    return fit_once(
        spec,
        Store(root / "store"),
        nothing,
        ViewCache(images=nothing, cache=root / "cache", threads=1),
        class_weights=None,
        batch_size=1,
        device=torch.device("cpu"),
    )


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[ProbeSpec]:
    """What has been fitted."""
    found: list[ProbeSpec] = []

    def fit(spec: ProbeSpec, *_: object) -> Probe:
        found.append(spec)
        return a_probe()

    monkeypatch.setattr(kept_probe, "_fit", fit)
    return found


def test_a_probe_is_fitted_once_and_read_as_it_was(tmp_path: Path, fitted: list[ProbeSpec]) -> None:
    (first, first_s), (second, second_s) = asked(tmp_path), asked(tmp_path)
    assert fitted == [SPEC] and first_s > 0 == second_s
    assert all(map(torch.equal, first, a_probe())) and all(map(torch.equal, second, a_probe()))


def test_a_damaged_probe_is_fitted_anew(tmp_path: Path, fitted: list[ProbeSpec]) -> None:
    asked(tmp_path)
    (path,) = (tmp_path / "store" / "probes").iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found, _ = asked(tmp_path)
    assert all(map(torch.equal, found, a_probe()))
    asked(tmp_path)
    assert fitted == [SPEC, SPEC]


@pytest.mark.parametrize("name", [field.name for field in fields(ProbeSpec)])
def test_what_a_probe_depends_on_is_in_its_key(
    tmp_path: Path, fitted: list[ProbeSpec], name: str
) -> None:
    others: dict[str, Any] = {
        "weights": replace(WEIGHTS, digest="e"),
        "train_res": 96,
        "images": "digest-trainval",
        "class_weights": "balanced",
        "most_images": 10,
    }
    other = replace(SPEC, **{name: others[name]})
    asked(tmp_path)
    asked(tmp_path, other)
    assert fitted == [SPEC, other]


@pytest.fixture
def has_looked(monkeypatch: pytest.MonkeyPatch) -> Callable[[threading.Thread], bool]:
    """Whether a thread has looked for the probe in the store."""
    found, read = set[threading.Thread](), kept_probe._read

    def watched(*args: Any) -> Probe | None:
        probe = read(*args)
        found.add(threading.current_thread())
        return probe

    monkeypatch.setattr(kept_probe, "_read", watched)
    return found.__contains__


def test_of_several_that_want_it_at_once_one_fits_and_the_others_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_looked: Callable[[threading.Thread], bool]
) -> None:
    fitting, found = list[str](), list[tuple[Probe, float]]()
    threads = [threading.Thread(target=lambda: found.append(asked(tmp_path))) for _ in range(3)]

    def fit(*_: object) -> Probe:
        """None finds it in the store at first."""
        fitting.append(threading.current_thread().name)
        wait_until(lambda: all(map(has_looked, threads)), what="the last look")
        return a_probe()

    monkeypatch.setattr(kept_probe, "_fit", fit)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fitting) == 1 and sorted(seconds > 0 for _, seconds in found) == [False, False, True]
    assert all(torch.equal(found[0][0].weight, probe.weight) for probe, _ in found)


def fit_for_ever(root: Path, began: Event) -> None:
    def fit(*_: object) -> Probe:
        began.set()
        while True:
            time.sleep(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_probe, "_fit", fit)
        asked(root)


def test_a_process_that_is_killed_while_it_fits_keeps_no_other_waiting(
    tmp_path: Path, fitted: list[ProbeSpec], has_looked: Callable[[threading.Thread], bool]
) -> None:
    context = multiprocessing.get_context("spawn")
    began = context.Event()
    other = context.Process(target=fit_for_ever, args=(tmp_path, began), daemon=True)
    other.start()
    wait_until(lambda: began.is_set() or not other.is_alive(), what="its fit")
    assert other.is_alive()
    waiting = threading.Thread(target=asked, args=(tmp_path,))
    waiting.start()
    wait_until(lambda: has_looked(waiting), what="a look at the store")
    assert fitted == []
    other.kill()
    waiting.join()
    assert fitted == [SPEC]
