"""What is timed is the net, at its resolution, in the runtime that was asked for."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch

from tests.trainables.export.test_portable_formats import tiny
from trainables.errors import UserError
from trainables.export.openvino_format import OpenvinoNet
from trainables.models import backbone
from trainables.profiling import latency, net_latency, onnx_latency
from trainables.profiling.latency import Runtime, Setting
from trainables.profiling.net_latency import conditions, measure, open_nets, setting_of


def setting(runtime: Runtime = "onnx", threads: int = 1, batch: int = 1) -> Setting:
    return Setting(runtime=runtime, threads=threads, batch=batch, throughput_batch=2)


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "TURN_S", 0.001)
    monkeypatch.setattr(latency, "ROUNDS", 2)
    monkeypatch.setattr(latency, "BULK_S", 1e3)  # no net is slow


def test_onnx_runtime_runs_each_net_with_the_threads_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[tuple[int, tuple[Any, ...]]] = []
    runs: list[tuple[int, ...]] = []
    session_of = onnxruntime.InferenceSession

    class Session:
        def __init__(self, path: Path, options: Any, providers: list[str]):
            self.real = session_of(path, options, providers=providers)
            shape = self.real.get_inputs()[0].shape
            opened.append((options.intra_op_num_threads, tuple(shape)))

        def run(self, names: None, given: dict[str, Any]) -> Any:
            runs.extend(x.shape for x in given.values())
            return self.real.run(names, given)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(backbone, "build", lambda _, classes: tiny(classes=classes))
    found = measure([("lite0", 48), ("lite0", 32), ("lite0", 48)], 7, setting(threads=3))
    assert found.keys() == {("lite0", 32), ("lite0", 48)}
    assert sorted(opened) == [(3, ("N", 3, 32, 32)), (3, ("N", 3, 48, 48))]
    assert {shape[0] for shape in runs} == {1, 2}
    for one in found.values():
        assert 0 < one.low_ms <= one.latency_ms <= one.high_ms and one.images_s > 0


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_runs_each_net_for_the_images_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []
    compiled = OpenvinoNet._compiled

    def compiling(net: OpenvinoNet, batch: int) -> Any:
        asked.append((net.res, batch, net._threads))
        return compiled(net, batch)

    monkeypatch.setattr(OpenvinoNet, "_compiled", compiling)
    monkeypatch.setattr(backbone, "build", lambda _, classes: tiny(classes=classes))
    found = measure([("lite0", 48), ("lite0", 32)], 7, setting("openvino", threads=2))
    assert found.keys() == {("lite0", 32), ("lite0", 48)}
    assert sorted(asked) == [(res, batch, 2) for res in (32, 48) for batch in (1, 2)]
    for one in found.values():
        assert 0 < one.low_ms <= one.latency_ms <= one.high_ms and one.images_s > 0
    said = conditions(setting("openvino", threads=2))
    assert (said.runtime, said.precision, said.threads) == ("openvino", "float32", 2)
    assert re.fullmatch(r"[\d.]+", said.version)


def test_a_runtime_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"the runtime openvino needs OpenVINO, which is not"):
        conditions(setting("openvino"))


@pytest.mark.parametrize("runtime", ["torch", "torch-compile"])
def test_pytorch_runs_the_net_at_the_resolution(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    threads: set[int] = set()
    build, compiled = backbone.build, []

    def building(*args: Any) -> torch.nn.Module:
        net = build(*args)

        def see(_: object, inputs: tuple[torch.Tensor]) -> None:
            seen.append(tuple(inputs[0].shape))
            threads.add(torch.get_num_threads())

        net.register_forward_pre_hook(see)
        return net

    def compiling(model: torch.nn.Module, **how: Any) -> torch.nn.Module:
        compiled.append(how)
        return model

    monkeypatch.setattr(backbone, "build", building)
    monkeypatch.setattr(torch, "compile", compiling)
    before = torch.get_num_threads()
    found = measure([("lite0", 32)], 7, setting(runtime, threads=before + 1))
    assert set(found) == {("lite0", 32)} and found["lite0", 32].latency_ms > 0
    assert set(seen) == {(1, 3, 32, 32), (2, 3, 32, 32)} and threads == {before + 1}
    assert torch.get_num_threads() == before
    assert len(compiled) == (runtime == "torch-compile")
    assert all(how["fullgraph"] for how in compiled)


def test_where_nothing_can_be_compiled_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiling(*_: object, **__: object) -> Any:
        def run(_: torch.Tensor) -> None:
            raise torch._dynamo.exc.TorchDynamoException("no compiler found\nmore")

        return run

    monkeypatch.setattr(torch, "compile", compiling)
    with pytest.raises(UserError, match=r"`latency_runtime` torch-compile: .*no compiler found\)"):
        measure([("lite0", 32)], 7, setting("torch-compile"))


def test_nets_that_are_too_large_together_are_loaded_in_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(net_latency, "MAX_WEIGHTS_M", 10.0)
    sizes = {"b0": 4.0, "b7": 63.8, "lite0": 3.4}
    monkeypatch.setattr(
        net_latency, "cost", lambda variant, *_: SimpleNamespace(params_m=sizes[variant])
    )
    nets = [("b0", 32), ("b0", 64), ("b7", 32), ("lite0", 32), ("lite0", 64), ("lite0", 96)]
    assert list(net_latency._groups(nets, 10)) == [nets[:2], nets[2:3], nets[3:5], nets[5:]]


def test_what_is_left_open_is_what_serves_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net_latency, "available_cores", lambda: 5)
    for device, runtime in (("cpu", "onnx"), ("cuda", "torch-compile")):
        monkeypatch.setattr(net_latency, "pick_device", lambda d=device: torch.device(d))
        found = setting_of(None, None, 1, 32)
        assert (found.runtime, found.threads) == (runtime, 5)
    assert setting_of("torch", 2, 1, 32).runtime == "torch"


def test_conditions_name_the_runtime_and_its_version() -> None:
    assert conditions(setting()).version == onnxruntime.__version__
    for runtime in ("torch", "torch-compile"):
        found = conditions(setting(runtime, threads=3, batch=4))
        assert (found.runtime, found.version) == (runtime, torch.__version__)
        assert (found.threads, found.batch, found.precision) == (3, 4, "float32")


@pytest.mark.parametrize("content", [b"", b"no net"])
def test_a_file_that_is_no_net_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.onnx is no ONNX file that ONNX Runtime"):
        onnx_latency.open_net(tmp_path / "bad.onnx", 1)


def test_a_net_is_compiled_whole_for_every_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled forwards of one class of nets share PyTorch's limit on their number."""
    monkeypatch.setattr(backbone, "build", lambda *_: Small())
    nets = [("lite0", 32), ("lite0", 64), ("b0", 32)]
    # By PyTorch's own means: what pytest takes back is gone from its settings for all later tests.
    with (
        torch._dynamo.config.patch(recompile_limit=1),
        open_nets(nets, 3, setting("torch-compile")) as opened,
    ):
        for net in nets:
            opened[net](1)()


class Small(torch.nn.Module):
    """A net that is compiled in a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale + 1
