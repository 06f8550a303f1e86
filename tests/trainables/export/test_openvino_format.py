"""OpenVINO gives the logits of ONNX Runtime, from files that are the same each time."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.end_to_end.lookups import STRACE, names_looked_up, watched
from trainables.errors import SweepError, UserError
from trainables.export import openvino_format
from trainables.export.candidates import write_candidates
from trainables.export.openvino_format import (
    TOLERANCE,
    check_installed,
    check_openvino,
    open_net,
    write_openvino,
)
from trainables.models import backbone
from trainables.profiling import onnx_latency

ROOT = Path(__file__).resolve().parents[3]
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed"
)
CLASSES = 7


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Path]]:
    """ONNX files of B0, whose squeeze and excitation and swish lite0 has not, at odd sides too."""
    build = backbone.build

    def seeded(*given: object) -> torch.nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return build(*given)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "build", seeded)
        yield write_candidates(tmp_path_factory.mktemp("nets"), "b0", (64, 75), CLASSES)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@needs_openvino
def test_logits_are_those_of_onnx_runtime(candidates: dict[int, Path], tmp_path: Path) -> None:
    for res, file in candidates.items():
        write_openvino(tmp_path / f"{res}.xml", file)
        reference = onnx_latency.open_net(file, 1)
        for path in (file, tmp_path / f"{res}.xml"):
            net = open_net(path, threads=1)
            assert (net.res, net.classes) == (res, CLASSES)
            assert net.metadata == reference.metadata == {"variant": "b0"}
            for batch in (1, 3):
                rng = np.random.default_rng(batch)
                images = rng.standard_normal((batch, 3, res, res), dtype=np.float32)
                expected = reference.run(images)
                assert np.ptp(expected) > 0 and expected.shape == (batch, CLASSES)
                assert relative(net.run(images), expected) < TOLERANCE
        assert check_openvino(tmp_path / f"{res}.xml", reference.run) < TOLERANCE


@needs_openvino
@pytest.mark.parametrize("other", [0.01, float("nan")])
def test_a_net_that_gives_other_logits_is_refused(
    candidates: dict[int, Path], tmp_path: Path, other: float
) -> None:
    write_openvino(tmp_path / "model.xml", candidates[64])
    reference = onnx_latency.open_net(candidates[64], 1)
    with pytest.raises(SweepError, match=r"model\.xml does not give the net's logits"):
        check_openvino(tmp_path / "model.xml", lambda images: reference.run(images) + other)


@needs_openvino
def test_the_same_net_gives_the_same_bytes_and_only_these(
    candidates: dict[int, Path], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_openvino(tmp_path / name / "model.xml", candidates[64])
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert files[0] == files[1] and files[0].keys() == {"model.xml", "model.bin"}
    assert str(tmp_path).encode() not in files[0]["model.xml"]
    assert str(candidates[64].parent).encode() not in files[0]["model.xml"]


@needs_openvino
@pytest.mark.parametrize("name", ["bad.onnx", "bad.xml"])
def test_a_file_that_is_no_net_is_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("no net")
    with pytest.raises(UserError, match=r"bad\.\w+ is no net that OpenVINO [\d.]+ can read"):
        open_net(tmp_path / name, 1)


def test_where_it_is_not_installed_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        UserError, match=r"--openvino needs OpenVINO, .*pip install '\.\[openvino\]'"
    ):
        check_installed("--openvino")
    with pytest.raises(UserError, match=r"needs OpenVINO"):  # as where a sweep of elsewhere had it
        write_openvino(tmp_path / "model.xml", tmp_path / "model.onnx")


@needs_openvino
@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
def test_its_makers_are_not_told(candidates: dict[int, Path], tmp_path: Path) -> None:
    """Its import alone would ask for their address, and leave an id of the user at home."""
    script = """
import sys, time
from pathlib import Path
import numpy as np
from trainables.export.openvino_format import open_net, write_openvino
write_openvino(Path(sys.argv[2]), Path(sys.argv[1]))
net = open_net(Path(sys.argv[2]), 1)
net.run(np.zeros((1, 3, net.res, net.res), np.float32))
time.sleep(3)
"""
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-c", script, str(candidates[64]), str(tmp_path / "model.xml")]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        watched(command, tmp_path / "sent"),
        env=os.environ | {"HOME": str(home), "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert names_looked_up(tmp_path / "sent") == set()
    assert not list(home.iterdir())


def test_its_number_of_a_build_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Imported:
        __version__ = "2026.4.1-22982-e213a147257-releases/2026/4"

    monkeypatch.setattr(openvino_format, "import_openvino", Imported)
    assert openvino_format.version() == "2026.4.1"
