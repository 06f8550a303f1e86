"""What each class counts for: the images that epochs draw, and weights in the loss."""

from collections import Counter

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from tests.factories import is_one_sentence
from trainables.errors import UserError
from trainables.training.class_balance import check_balance, class_weights, drawn_images

# Images of each class of a train split.
SETS = {
    "even": (5, 5, 5),
    "uneven": (40, 3, 11, 1),
    "one class is missing": (0, 20, 2, 0, 7),
    "more classes than images in an epoch's share": (1,) * 9 + (3,),
    "one class": (6,),
    "a long tail": tuple(1 + 200 // (rank + 1) for rank in range(30)),
}


def labels_of(sizes, seed=0):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(seed).permutation(labels)


def of_class(labels, c):
    return np.flatnonzero(labels == c).tolist()


@pytest.fixture(params=SETS)
def labels(request):
    return labels_of(SETS[request.param])


@pytest.mark.parametrize("epoch", [1, 2, 7])
def test_a_uniform_epoch_is_every_image_once(labels, epoch):
    drawn = drawn_images(labels, "uniform", seed=0, epoch=epoch)
    assert drawn.tolist() == list(range(len(labels)))


@pytest.mark.parametrize("seed", [0, 5])
def test_balanced_epochs_draw_classes_alike_and_the_images_of_one_alike(labels, seed):
    """To within one: classes in each epoch and over all so far, images over all so far."""
    by_image: Counter[int] = Counter()
    present = set(labels.tolist())
    for epoch in range(1, 8):
        drawn = drawn_images(labels, "balanced", seed=seed, epoch=epoch)
        assert len(drawn) == len(labels)
        now = Counter(drawn.tolist())
        by_image += now
        for counts in (now, by_image):
            totals = [sum(counts[i] for i in of_class(labels, c)) for c in present]
            assert max(totals) - min(totals) <= 1
        for c in present:
            seen = [by_image[i] for i in of_class(labels, c)]
            assert max(seen) - min(seen) <= 1
    assert sum(by_image.values()) == 7 * len(labels)


def test_a_balanced_draw_depends_on_seed_and_epoch_alone():
    labels = labels_of((40, 3, 11))

    def draw(**at):
        return tuple(drawn_images(labels, "balanced", **at).tolist())

    assert draw(seed=3, epoch=4) == draw(seed=3, epoch=4)
    different = [draw(seed=s, epoch=e) for s, e in [(0, 1), (0, 2), (1, 1), (1, 2), (1, 0)]]
    assert len(set(different)) == 5


def test_the_images_of_a_frequent_class_come_in_another_order_each_time_round():
    """Of 90 images an epoch draws 30: each three epochs see all, in other thirds."""
    labels = labels_of((90, 10, 10, 10))
    first = np.flatnonzero(labels == 0)
    rounds = []
    for start in (1, 4, 7, 10):
        thirds = [
            frozenset(drawn_images(labels, "balanced", seed=0, epoch=e).tolist()) & set(first)
            for e in range(start, start + 3)
        ]
        assert [len(third) for third in thirds] == [30, 30, 30]
        assert frozenset.union(*thirds) == set(first)
        rounds.append(thirds[0])
    assert len(set(rounds)) == 4


def test_weights_are_those_of_scikit_learn_and_their_roots(labels):
    classes = int(labels.max()) + 3  # two more, of which train has no image
    present = np.unique(labels)
    wanted = np.ones(classes)
    wanted[present] = compute_class_weight("balanced", classes=present, y=labels)
    balanced = class_weights(labels, classes, "balanced")
    assert balanced == pytest.approx(wanted)
    root = class_weights(labels, classes, "sqrt")
    assert balanced is not None and root is not None
    ratio = root[present] / np.sqrt(balanced[present])
    assert ratio == pytest.approx(np.full(len(present), ratio[0]))
    absent = np.setdiff1d(np.arange(classes), present)
    for weights in (balanced, root):
        assert weights[labels].mean() == pytest.approx(1)
        assert np.isfinite(weights).all() and (weights > 0).all()
        assert (weights[absent] == 1).all()
    assert class_weights(labels, classes, "none") is None


def test_balanced_twice_is_refused_in_a_sentence():
    check_balance("balanced", "none")
    check_balance("uniform", "balanced")
    with pytest.raises(UserError, match=r"`sampling` balanced.*`class_weights` sqrt") as refused:
        check_balance("balanced", "sqrt")
    assert is_one_sentence(str(refused.value))
