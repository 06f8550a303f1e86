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


@pytest.mark.parametrize(
    ("name", "timm_id", "res", "pixels"),
    [
        ("timm:resnet50", "resnet50.a1_in1k", 224, (*IMAGENET, "bicubic", 0.95)),
        ("timm:resnet50.tv_in1k", "resnet50.tv_in1k", 224, (*IMAGENET, "bilinear", 0.875)),
        (
            "timm:tf_efficientnetv2_s",
            "tf_efficientnetv2_s.in21k_ft_in1k",
            300,
            (*HALF, "bicubic", 1.0),
        ),
    ],
)
def test_any_net_of_timm_is_known_by_its_name_with_the_preprocessing_of_its_weights(
    name, timm_id, res, pixels
):
    row = variants.get(name)
    assert (row.name, row.timm_id, row.native_res) == (name, timm_id, res)
    assert vars(variants.preprocessing(row)) == dict(
        zip(("mean", "std", "interpolation", "crop_pct"), pixels, strict=True)
    )
    assert not row.is_of_family and variants.get("b0").is_of_family
    assert variants.classifier_name(row) in ("fc", "classifier")
    assert ":" not in row.file_name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:resnet51", r"names no net that this timm .* knows"),
        ("timm:", r"names no net"),
        ("timm:resnet50.b9", r"one of its tags \(.*a1_in1k"),
    ],
)
def test_a_name_that_timm_does_not_know_is_refused(name, words):
    with pytest.raises(UserError, match=rf"`variant` {name} .*{words}"):
        variants.get(name)


def test_the_family_comes_first_in_its_own_order():
    names = ["timm:resnet50", "l2", "timm:densenet121", "b1", "b0_ap", "b0"]
    wanted = ["b0", "b1", "l2", "b0_ap", "timm:densenet121", "timm:resnet50"]
    assert sorted(names, key=variants.order) == wanted


def test_an_unknown_variant_is_told_which_there_are():
    with pytest.raises(UserError, match=r"`variant` b9 is not .*b0, b1, .*l2, lite0"):
        variants.get("b9")
