"""A variant called "tiny": an EfficientNet of the family's parts, but few, that trains in no time.

For tests of what is done with a net, whichever it is. timm knows it once this is imported; the
family knows it within :func:`known`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from timm.models import generate_default_cfgs, get_pretrained_cfg, register_model
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet, _create_effnet
from torch import nn

from trainables.models.variants import VARIANTS

NAME = "tiny"
# As in EfficientNet-Lite0: strides, skips, kernels of 3 and 5, ReLU6, and the head as large.
BLOCKS = ("ds_r1_k3_s1_e1_c8", "ir_r2_k3_s2_e2_c12", "ir_r1_k5_s2_e2_c16", "ir_r1_k3_s2_e2_c24")
LAST_BLOCK = "ir_r1_k3_s2_e2_c320"

_lite0 = get_pretrained_cfg("tf_efficientnet_lite0.in1k")
assert _lite0 is not None
default_cfgs = generate_default_cfgs({"tf_efficientnet_tiny.in1k": replace(_lite0, hf_hub_id=None)})


@register_model
def tf_efficientnet_tiny(pretrained: bool = False, **options: Any) -> EfficientNet:
    return _create_effnet(
        "tf_efficientnet_tiny",
        pretrained,
        block_args=decode_arch_def([[block] for block in (*BLOCKS, LAST_BLOCK)]),
        num_features=1280,
        stem_size=8,
        pad_type="same",
        act_layer=nn.ReLU6,
        **options,
    )


@contextmanager
def known() -> Iterator[None]:
    """The family has this variant within the block."""
    own = replace(VARIANTS["lite0"], name=NAME, timm_name="tf_efficientnet_tiny", package=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, NAME, own)
        yield
