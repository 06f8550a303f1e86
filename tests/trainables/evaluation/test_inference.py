import numpy as np
import pytest
import torch

from trainables.evaluation.inference import batches_of, logits_of
from trainables.evaluation.metrics import Score, score
from trainables.models.variants import Preprocessing

PLAIN = Preprocessing(
    mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bicubic", crop_pct=1.0
)
CPU = torch.device("cpu")


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
    assert found == Score(split="val", n=6, hits1=6, hits5=6)
    assert type(found.hits1) is int


def test_batches_hold_every_image_once_and_in_order():
    view = np.arange(7, dtype=np.uint8).repeat(2 * 2 * 3).reshape(7, 2, 2, 3)
    view.setflags(write=False)
    batches = list(batches_of(view, 3, PLAIN, CPU))
    assert [len(b) for b in batches] == [3, 3, 1]
    seen = torch.cat(batches)[:, 0, 0, 0] * 255
    torch.testing.assert_close(seen, torch.arange(7.0))


def test_logits_are_those_of_the_model_in_eval_mode_in_float32():
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm1d(12)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Dropout(0.5), norm, torch.nn.Linear(12, 4)
    )
    view = np.random.default_rng(0).integers(0, 256, (7, 2, 2, 3), dtype=np.uint8)
    model.train()
    found = logits_of(model, view, PLAIN, batch_size=3, device=CPU)
    x = torch.tensor(view).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        wanted = model.eval()(x)
    torch.testing.assert_close(found, wanted)
    assert found.dtype == torch.float32
    assert norm.num_batches_tracked == 0
