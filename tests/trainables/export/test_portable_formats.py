"""ONNX files and torch.export programs: the net's logits, the same bytes anywhere."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet

from trainables.errors import SweepError
from trainables.export import portable_formats
from trainables.export.portable_formats import (
    check,
    export_onnx,
    trace,
    write_onnx,
    write_program,
)

ROOT = Path(portable_formats.__file__).parents[2]
RES, CLASSES = 37, 4  # odd, so that "same" padding is not even on both sides
METADATA = {"labels": json.dumps(["Äpfel", "b", "c", "0"]), "crop_pct": "1.0"}
WRITER = """
import runpy, sys
from pathlib import Path
from safetensors.torch import load_file
own = runpy.run_path(sys.argv[1])
net = own["tiny"](seed=1)
net.load_state_dict(load_file(sys.argv[2]))
own["write"](Path.cwd(), net)
"""


def alive(net, res):
    """With statistics and a classifier that make logits far from zero."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(torch.randn(8, 3, res, res))
    torch.nn.init.normal_(net.classifier.weight, std=0.5)
    return net.eval()


def tiny(seed=0, classes=CLASSES):
    """An EfficientNet of the family's parts, but few: exported in a second."""
    torch.manual_seed(seed)
    blocks = ["ds_r1_k3_s2_e1_c8_se0.25", "ir_r2_k5_s2_e4_c16"]  # a stride, a skip, squeeze-excite
    net = EfficientNet(
        decode_arch_def([[block] for block in blocks]),
        num_classes=classes,
        num_features=32,
        stem_size=8,
        pad_type="same",
        act_layer=torch.nn.SiLU,
    )
    return alive(net, RES)


def write(folder: Path, net: torch.nn.Module, res: int = RES) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    program = trace(net, res)
    write_onnx(folder / "model.onnx", export_onnx(program), METADATA)
    write_program(folder / "model.pt2", program)
    return folder / "model.onnx", folder / "model.pt2"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def net():
    return tiny()


@pytest.fixture(scope="module")
def files(net, tmp_path_factory):
    return write(tmp_path_factory.mktemp("written"), net)


def test_the_same_net_gives_the_same_bytes_anywhere(tmp_path, net, files):
    wanted = contents(files[0].parent)
    assert wanted.keys() == {"model.onnx", "model.pt2"}
    write(tmp_path / "other" / "folder", deepcopy(net).to(memory_format=torch.channels_last))
    assert contents(tmp_path / "other" / "folder") == wanted
    away = tmp_path / "away"
    away.mkdir()
    save_file(net.state_dict(), tmp_path / "state")
    command = [sys.executable, "-c", WRITER, str(Path(__file__).resolve()), tmp_path / "state"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    done = subprocess.run(command, cwd=away, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert contents(away) == wanted


def test_the_files_tell_nothing_of_the_machine(files):
    for path in files:
        data = path.read_bytes()
        for held in (b"site-packages", b".py", b"forward(", str(Path.home()).encode() + b"/"):
            assert held not in data, (path.name, held)
        assert str(ROOT).encode() not in data and str(path.parent).encode() not in data
    assert b"pkg.torch" not in files[0].read_bytes()  # what the exporter notes of each node


@pytest.mark.parametrize("images", [1, 2, 5])
def test_both_forms_give_the_logits_of_the_net_for_any_number_of_images(net, files, images):
    x = torch.randn(images, 3, RES, RES, generator=torch.Generator().manual_seed(images))
    with torch.inference_mode():
        wanted = net(x)
        loaded = torch.export.load(files[1])
        program = loaded.module()(x)
    assert [bounds.lower for bounds in loaded.range_constraints.values()] == [1]
    session = onnxruntime.InferenceSession(files[0], providers=["CPUExecutionProvider"])
    (onnx,) = session.run(["logits"], {"pixels": x.numpy()})
    assert wanted.std() > 0.1 and wanted.shape == (images, CLASSES)
    assert onnx.dtype == np.float32
    torch.testing.assert_close(torch.from_numpy(onnx), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(program, wanted, rtol=1e-5, atol=1e-5)


def test_onnx_runtime_reads_shapes_and_metadata(files):
    session = onnxruntime.InferenceSession(files[0], providers=["CPUExecutionProvider"])
    (pixels,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (pixels.name, pixels.shape) == ("pixels", ["N", 3, RES, RES])
    assert (logits.name, logits.shape) == ("logits", ["N", CLASSES])
    assert pixels.type == logits.type == "tensor(float)"
    assert session.get_modelmeta().custom_metadata_map == METADATA


def test_the_program_holds_no_pickle(files, monkeypatch):
    with zipfile.ZipFile(files[1]) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        pickled = [name for name, size in sizes.items() if name.endswith((".pt", ".pkl")) and size]
        configs = [archive.read(n) for n in sizes if n.endswith("config.json")]
    assert pickled == []
    assert configs and all(b'"use_pickle": true' not in config for config in configs)

    def unpickling(*_, **__):
        raise AssertionError("unpickles")

    monkeypatch.setattr(torch, "load", unpickling)
    monkeypatch.setattr("pickle.loads", unpickling)
    assert not any(p.requires_grad for p in torch.export.load(files[1]).module().parameters())


def test_nothing_is_said_and_the_net_left_as_it_is(tmp_path, capfd, caplog, recwarn):
    net = tiny().to(memory_format=torch.channels_last).train()
    before = {k: (v.clone(), v.stride()) for k, v in net.state_dict().items()}
    check(*write(tmp_path, net), net, RES)
    assert net.training and all(p.requires_grad for p in net.parameters())
    after = net.state_dict()
    assert all(torch.equal(after[k], v) for k, (v, _) in before.items())
    assert all(after[k].stride() == stride for k, (_, stride) in before.items())
    assert capfd.readouterr() == ("", "")
    assert [r.message for r in caplog.records if r.levelname not in ("DEBUG", "INFO")] == []
    assert [str(w.message) for w in recwarn.list] == []


def test_check_gives_the_largest_difference(net, files: tuple[Path, Path]):
    assert 0 < check(*files, net, RES) < 1e-5
    shifted = deepcopy(net)
    with torch.no_grad():
        shifted.classifier.bias[1] += 1e-3
        largest = max(net(torch.randn(64, 3, RES, RES)).abs().max().item(), 1.0)
    assert 1e-4 / largest < check(*files, shifted, RES, tolerance=1.0) <= 1.01e-3


@pytest.mark.parametrize("other", [{"seed": 1}, {"classes": CLASSES + 1}])
def test_a_file_of_another_net_is_refused_by_name(tmp_path, net, files, other):
    onnx, program = write(tmp_path, tiny(**other))
    with pytest.raises(SweepError, match=r"^model\.onnx does not give"):
        check(onnx, files[1], net, RES)
    with pytest.raises(SweepError, match=r"^model\.pt2 does not give"):
        check(files[0], program, net, RES)


def test_a_net_whose_logits_are_no_numbers_is_refused(net, files: tuple[Path, Path]):
    broken = deepcopy(net)
    with torch.no_grad():
        broken.classifier.weight[0, 0] = torch.nan
    with pytest.raises(SweepError, match="differ by nan"):
        check(*files, broken, RES)


def test_weights_too_large_for_one_file_lie_beside_it(tmp_path, net, files, monkeypatch):
    monkeypatch.setattr(portable_formats, "MAX_SINGLE_FILE_BYTES", 1000)
    path, program = write(tmp_path / "one", net)
    assert {p.name for p in path.parent.iterdir()} == {"model.onnx", "model.onnx.data", "model.pt2"}
    assert path.stat().st_size < files[0].stat().st_size / 2
    shutil.move(tmp_path / "one", tmp_path / "moved")
    moved = tmp_path / "moved"
    assert check(moved / path.name, moved / program.name, net, RES) < 1e-5
    write(tmp_path / "again", net)
    assert contents(tmp_path / "again") == contents(moved)


@pytest.mark.slow
def test_a_net_of_the_family_can_be_written(tmp_path):
    torch.manual_seed(0)
    net = alive(timm.create_model("tf_efficientnet_b0", num_classes=10), 75)
    assert check(*write(tmp_path, net, 75), net, 75) < 1e-4
