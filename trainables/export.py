"""Write the finished net as others read it: safetensors and a config.json in timm's layout.

timm.create_model("local-dir:FOLDER", pretrained=True)
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from timm.models._hub import save_config_for_hf  # public through push_to_hf_hub alone

from trainables import backbones, variants
from trainables.store import write_tensors, write_text
from trainables.transforms import EvalTransform


def write_model(
    folder: Path,
    state: Mapping[str, torch.Tensor],
    *,
    variant: str,
    classes: Sequence[str],
    train_res: int,
    transform: EvalTransform,
    card: str,
) -> None:
    """Write ``folder`` whole, in place of what was there.

    ``config.json`` says input_size = train resolution, test_input_size = test resolution and its
    crop ratio: timm's convention for a net that is tested larger than it was trained.
    """
    row = variants.get(variant)
    preprocessing = variants.preprocessing(row)
    with torch.device("meta"):
        model = backbones.build(row, len(classes))
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        fresh.chmod(0o755)
        write_tensors(fresh / "model.safetensors", state)
        save_config_for_hf(
            model,
            str(fresh / "config.json"),
            model_config={"label_names": list(classes)},
            data_config={
                "input_size": (3, train_res, train_res),
                "test_input_size": (3, transform.test_res, transform.test_res),
                "crop_pct": transform.crop_pct,
                "test_crop_pct": transform.crop_pct,
                "mean": preprocessing.mean,
                "std": preprocessing.std,
                "interpolation": transform.interpolation,
            },
        )
        write_text(fresh / "labels.txt", "".join(f"{name}\n" for name in classes))
        write_text(fresh / "README.md", card)
        former = fresh.with_name(f"{fresh.name}.old")
        if folder.exists():
            folder.rename(former)
        fresh.rename(folder)
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
