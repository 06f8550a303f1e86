"""The order of the classes of a classifier that is kept."""

import numpy as np
import pytest
import torch

from trainables.evaluation.kept_classifier import check_order, other_orders, predictions_of
from trainables.models import variants
from trainables.models.weights import find_weights
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_tensors, write_tensors

STRINGS = [str(n) for n in (0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9)]
NATURAL = [str(n) for n in range(12)]


def outputs(order, classes, accuracy, n=60, seed=0):
    """Labels, and the outputs of a classifier whose k-th output is the k-th class of ``order``."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(classes)
    seen = np.where(rng.random(n) < accuracy, labels, rng.integers(0, len(classes), n))
    return labels, np.array([order.index(classes[label]) for label in seen])


@pytest.mark.parametrize(
    ("classes", "order", "likely"),
    [
        (STRINGS, NATURAL, "natural"),
        (NATURAL, STRINGS, "string"),
        (STRINGS, STRINGS, None),
        (NATURAL, NATURAL, None),
        (list("abcd"), list("cadb"), "another"),
        (list("abcd"), list("abcd"), None),
    ],
)
@pytest.mark.parametrize("accuracy", [0.6, 0.95])
def test_the_likely_order_is_named(classes, order, likely, accuracy):
    check = check_order(classes, *outputs(order, classes, accuracy))
    assert check.likely == likely and check.n == 60
    assert check.best > 0.5
    assert (check.given < check.best) == (likely is not None)
    if likely is None:
        assert not check.is_chance


@pytest.mark.parametrize("seed", range(20))
def test_chance_is_chance_in_every_order(seed):
    check = check_order(STRINGS, *outputs(STRINGS, STRINGS, 0.0, seed=seed))
    assert check.likely is None and check.is_chance


def test_other_orders_are_those_of_other_programs():
    assert other_orders(STRINGS) == {"natural": NATURAL}
    assert other_orders(NATURAL) == {"string": STRINGS}
    assert other_orders(["b", "a"]) == {"natural": ["a", "b"], "string": ["a", "b"]}
    assert other_orders(["a", "b"]) == {}


def test_predictions_are_those_of_the_weights_own_classifier(lite0_weights, tiny_images, tmp_path):
    store = Store(tmp_path)
    weights = find_weights(variants.get("lite0"), str(lite0_weights), store)
    val = tiny_images.split("val")
    first = predictions_of(weights, val, 5, 64, 12, store)
    assert first.shape == (12,) and set(first.tolist()) <= set(range(5))
    state = read_tensors(store.weights(str(weights.name)))
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name][torch.tensor([1, 2, 3, 4, 0])]
    (tmp_path / "turned").mkdir()
    write_tensors(tmp_path / "turned" / "lite0.safetensors", state)
    turned = find_weights(variants.get("lite0"), str(tmp_path / "turned"), store)
    second = predictions_of(turned, val, 5, 64, 12, store)
    assert ((second + 1) % 5).tolist() == first.tolist()
