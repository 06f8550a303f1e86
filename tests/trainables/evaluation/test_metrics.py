import pytest
import torch

from trainables.evaluation.metrics import Score, score


def naive_hits(logits, labels, best_of):
    hits = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        ranked = sorted(range(len(row)), key=lambda c: -row[c])
        hits += label in ranked[:best_of]
    return hits


@pytest.mark.parametrize("classes", [2, 3, 5, 6, 40])
def test_score_is_the_naive_count(classes):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(200, classes, generator=generator)
    labels = torch.randint(classes, (200,), generator=generator)
    found = score(logits, labels, "val")
    assert found.hits1 == naive_hits(logits, labels, 1)
    assert found.hits5 == naive_hits(logits, labels, 5)
    assert (found.split, found.n) == ("val", 200)
    assert found.top1 == found.hits1 / 200
    assert found.top5 == found.hits5 / 200


def test_with_fewer_than_five_classes_every_image_is_a_top5_hit():
    found = score(torch.zeros(7, 4), torch.tensor([0, 1, 2, 3, 0, 1, 2]), "test")
    assert found.hits5 == 7


def test_a_score_counts_images_and_keeps_no_tensors():
    found = score(torch.eye(6), torch.arange(6), "val")
    assert found == Score(split="val", n=6, hits1=6, hits5=6, balanced_accuracy=1.0, macro_f1=1.0)
    assert type(found.hits1) is int
