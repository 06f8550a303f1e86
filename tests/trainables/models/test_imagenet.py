"""ImageNet's classes, known by their names."""

from timm.data import ImageNetInfo

from trainables.models.imagenet import names_imagenet

INFO = ImageNetInfo("imagenet-1k")
SYNSETS = INFO.label_names()
WORDS = [description.split(",")[0] for description in INFO.label_descriptions()]


def test_wordnet_ids_and_words_are_imagenets():
    assert names_imagenet(SYNSETS)
    assert names_imagenet(WORDS)
    assert names_imagenet([word.replace(" ", "_").upper() for word in WORDS])


def test_other_classes_and_other_orders_are_not():
    assert not names_imagenet(SYNSETS[:-1])
    assert not names_imagenet([SYNSETS[1], SYNSETS[0], *SYNSETS[2:]])
    assert not names_imagenet(sorted(WORDS))
    assert not names_imagenet([f"product {number}" for number in range(1000)])
    assert not names_imagenet([*SYNSETS[:-1], "own"])
