"""Write the finished net in timm's layout: safetensors and a config.json.

``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from timm.models._hub import save_config_for_hf  # public through push_to_hf_hub alone

from trainables.export.mirror_mark import MIRRORS
from trainables.models import backbone, variants
from trainables.storage.files import write_tensors, write_text
from trainables.transforms.eval_transform import EvalTransform


def write_timm(
    folder: Path,
    state: Mapping[str, torch.Tensor],
    *,
    variant: str,
    classes: Sequence[str],
    train_res: int,
    transform: EvalTransform,
    temperature: float | None = None,
    mirrors: bool = False,
) -> None:
    """Write model.safetensors, config.json and labels.txt into ``folder``, which exists.

    In ``config.json``, input_size is the train resolution, and test_input_size and test_crop_pct
    are those of testing: timm's convention for a net that is tested larger than it was trained.

    Args:
        temperature: what logits are to be divided by before a softmax; timm passes over it.
        mirrors: whether logits are to be averaged over each image and its mirror image; timm passes
            over it, too.
    """
    row = variants.get(variant)
    preprocessing = variants.preprocessing(row)
    with torch.device("meta"):
        model = backbone.build(row, len(classes))
    write_tensors(folder / "model.safetensors", state)
    save_config_for_hf(
        model,
        str(folder / "config.json"),
        model_config={"label_names": list(classes)}
        | ({} if temperature is None else {"temperature": temperature})
        | ({MIRRORS: True} if mirrors else {}),
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
    write_text(folder / "labels.txt", "".join(f"{name}\n" for name in classes))


def needs_mirror(folder: Path) -> bool:
    """Say whether logits of the net in ``folder`` are to be averaged with the mirror image's."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return bool(config.get(MIRRORS, False))
