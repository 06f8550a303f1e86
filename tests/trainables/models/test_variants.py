"""The table of variants, against timm's."""

import pytest
import timm

from trainables.errors import UserError
from trainables.models import variants

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize("row", variants.VARIANTS.values(), ids=variants.VARIANTS)
def test_every_tag_is_one_of_timms_and_can_be_downloaded(row):
    assert row.timm_id in timm.list_pretrained(f"{row.timm_name}.*")
    cfg = variants.hub_config(row)
    assert cfg.hf_hub_id
    assert cfg.input_size == (3, row.native_res, row.native_res)
    assert cfg.num_classes == 1000


def test_noisy_student_where_there_is_one_and_advprop_where_not():
    for name in ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"):
        assert variants.get(name).timm_id == f"tf_efficientnet_{name}.ns_jft_in1k"
    assert variants.get("b8").timm_id == "tf_efficientnet_b8.ap_in1k"


def test_l2_starts_from_475_and_not_from_800():
    assert variants.get("l2").timm_id == "tf_efficientnet_l2.ns_jft_in1k_475"
    assert variants.hub_config(variants.get("l2")).input_size == (3, 475, 475)


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_pixels_are_normalised_as_the_weights_want_them(name):
    found = variants.preprocessing(variants.get(name))
    advprop_or_lite = name == "b8" or name.endswith("_ap") or name.startswith("lite")
    assert (found.mean, found.std) == (HALF if advprop_or_lite else IMAGENET)
    assert found.interpolation == ("bilinear" if name in ("lite3", "lite4") else "bicubic")


def test_an_unknown_variant_is_told_which_there_are():
    with pytest.raises(UserError, match=r"`variant` b9 is not .*b0, b1, .*l2, lite0"):
        variants.get("b9")
