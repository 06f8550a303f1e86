"""The folder that timm opens: weights, configuration and labels."""

import json
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file

from trainables.export.timm_format import write_timm
from trainables.models import variants
from trainables.transforms.eval_transform import EvalTransform

CLASSES = ("Äpfel", "pears & plums", "0")
WHOLE = EvalTransform(test_res=320, crop_pct=1.0, interpolation="bicubic")
# What a user runs who has timm and nothing of ours.
USER = """
import json, sys, timm, torch
torch.set_num_threads(1)
for folder in sys.argv[1:]:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        torch.save(model(torch.load(f"{folder}.x")), f"{folder}.logits")
    told = {
        "test": timm.data.resolve_model_data_config(model, use_test_size=True),
        "train": timm.data.resolve_model_data_config(model),
        "labels": list(model.pretrained_cfg["label_names"]),
        "classes": model.num_classes,
        "ours": [name for name in sys.modules if name.split(".")[0] in ("trainables", "sweeps")],
    }
    print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return timm.create_model("tf_efficientnet_lite0", num_classes=len(CLASSES)).eval()


def write(folder, net, variant="lite0", **changed):
    named = {"classes": CLASSES, "train_res": 224, "transform": WHOLE}
    folder.mkdir(parents=True)
    write_timm(folder, net.state_dict(), variant=variant, **{**named, **changed})


def test_timm_alone_loads_the_model_and_how_to_test_it(tmp_path):
    torch.manual_seed(0)
    x, wanted, folders = torch.randn(2, 3, 64, 64), {}, {}
    for variant in ("lite0", "b0", "timm:resnet18", "timm:mobilenetv3_small_050"):
        net = timm.create_model(variants.get(variant).timm_name, num_classes=len(CLASSES)).eval()
        folders[variant] = tmp_path / "out" / variants.file_name(variant)
        write(folders[variant], net, variant)
        torch.save(x, f"{folders[variant]}.x")
        with torch.no_grad():
            wanted[variant] = net(x)
    command = [sys.executable, "-c", USER, *map(str, folders.values())]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    for variant, line in zip(folders, done.stdout.splitlines(), strict=True):
        logits = torch.load(f"{folders[variant]}.logits")
        torch.testing.assert_close(logits, wanted[variant], rtol=1e-6, atol=1e-6)
        told, imagenet = json.loads(line), variant != "lite0"
        assert told["ours"] == []
        assert told["labels"] == list(CLASSES)
        assert told["classes"] == len(CLASSES)
        assert told["test"]["input_size"] == [3, 320, 320]
        assert told["train"]["input_size"] == [3, 224, 224]
        assert told["test"]["crop_pct"] == 1.0
        assert told["test"]["interpolation"] == "bicubic"
        assert told["test"]["mean"] == ([0.485, 0.456, 0.406] if imagenet else [0.5] * 3)
        assert told["test"]["std"] == ([0.229, 0.224, 0.225] if imagenet else [0.5] * 3)


def test_the_folder_holds_all_and_only_what_is_told(tmp_path, net):
    folder = tmp_path / "model"
    write(folder, net)
    files = {p.name for p in folder.iterdir()}
    assert files == {"model.safetensors", "config.json", "labels.txt"}
    assert (folder / "labels.txt").read_text(encoding="utf-8").splitlines() == list(CLASSES)
    found, wanted = load_file(folder / "model.safetensors"), net.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "tf_efficientnet_lite0"
    assert config["pretrained_cfg"]["test_crop_pct"] == 1.0


def test_the_crop_and_interpolation_are_those_it_was_tested_with(tmp_path, net):
    transform = EvalTransform(test_res=64, crop_pct=0.875, interpolation="bilinear")
    write(tmp_path / "model", net, transform=transform)
    model = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True)
    told = timm.data.resolve_model_data_config(model, use_test_size=True)
    assert (told["input_size"], told["crop_pct"]) == ((3, 64, 64), 0.875)
    assert told["interpolation"] == "bilinear"


def test_the_same_net_gives_the_same_bytes(tmp_path, net):
    for name in ("one", "other"):
        write(tmp_path / name, net)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes(), path.name
