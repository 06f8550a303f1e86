"""Candidates are the nets themselves at each resolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from trainables.export.candidates import write_candidates
from trainables.models import backbone


@pytest.mark.parametrize(
    "variant", ["b0", "timm:resnet18", "timm:mobilenetv3_small_050", "timm:convnext_atto"]
)
def test_candidates_give_the_logits_of_their_net_at_each_resolution(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[torch.nn.Module] = []
    build = backbone.build

    def building(*args: object) -> torch.nn.Module:
        built.append(build(*args))  # type: ignore[arg-type]
        return built[-1]

    monkeypatch.setattr(backbone, "build", building)
    files = write_candidates(tmp_path, variant, (75, 32, 64, 32), 7)
    assert {res: path.name for res, path in files.items()} == {
        res: f"{variant.replace(':', '-')}-{res}.onnx" for res in (32, 64, 75)
    }
    net = built[0]
    for res, path in files.items():
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        assert session.get_inputs()[0].shape == ["N", 3, res, res]
        assert session.get_modelmeta().custom_metadata_map == {"variant": variant}
        x = torch.randn(2, 3, res, res, generator=torch.Generator().manual_seed(res))
        with torch.inference_mode():
            wanted = net(x).numpy()
        (logits,) = session.run(None, {"pixels": x.numpy()})
        assert logits.shape == (2, 7) and np.abs(wanted).max() > 0
        np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
