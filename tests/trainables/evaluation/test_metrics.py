import pytest
import torch

from trainables.errors import SweepError
from trainables.evaluation.metrics import Score, score


def naive_hits(logits, labels, best_of):
    """Ranks a label behind all that are as likely, but for one that is the prediction."""
    hits = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if row.index(max(row)) == label:
            hits += 1
        elif best_of > 1:
            hits += sum(z >= row[label] for z in row) <= best_of
    return hits


@pytest.mark.parametrize("distinct", [2, 4, 1000])
@pytest.mark.parametrize("classes", [2, 3, 5, 6, 40])
def test_score_is_the_naive_count(classes, distinct):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randint(distinct, (200, classes), generator=generator).float()
    labels = torch.randint(classes, (200,), generator=generator)
    found = score(logits, labels, "val")
    assert found.hits1 == naive_hits(logits, labels, 1)
    assert found.hits5 == naive_hits(logits, labels, min(5, classes))
    assert (found.split, found.n) == ("val", 200)
    assert found.top1 == found.hits1 / 200
    assert found.top5 == found.hits5 / 200


def test_hits_are_those_of_the_predictions():
    """A classifier that starts at zero says the first class, whatever sorts equal numbers."""
    labels = torch.arange(40) % 10
    found = score(torch.zeros(40, 10), labels, "val")
    assert found.hits1 == int((torch.zeros(40, 10).argmax(dim=1) == labels).sum()) == 4
    assert found.hits5 == 4  # no label but the predicted one is among five of ten equal ones


@pytest.mark.parametrize("seed", range(20))
def test_top5_is_never_less_than_top1(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(2, (50, 12), generator=generator).float()
    found = score(logits, torch.randint(12, (50,), generator=generator), "val")
    assert found.hits1 == int((logits.argmax(1) == 0).sum()) or found.hits1 <= found.hits5
    assert found.hits1 <= found.hits5


def test_with_five_classes_or_fewer_every_image_is_a_top5_hit():
    found = score(torch.zeros(7, 4), torch.tensor([0, 1, 2, 3, 0, 1, 2]), "test")
    assert found.hits5 == 7


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_are_a_failure_and_no_score(value):
    logits = torch.randn(100, 10)
    logits[[7, 9], 3] = value
    with pytest.raises(SweepError, match=r"2 of 100 images of val"):
        score(logits, torch.arange(100) % 10, "val")


def test_absent_classes_are_never_predicted():
    logits = torch.tensor([[9.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0], [9.0, 2.0, 1.0, 3.0, 0, 0, 0]])
    found = score(logits, torch.tensor([2, 1]), "test", present=(1, 2))
    assert (found.hits1, found.hits5) == (2, 2)


def test_a_score_counts_images_and_keeps_no_tensors():
    found = score(torch.eye(6), torch.arange(6), "val")
    assert found == Score(split="val", n=6, hits1=6, hits5=6, balanced_accuracy=1.0, macro_f1=1.0)
    assert type(found.hits1) is int
