"""With the arithmetic of a GPU one net has one set of logits, whatever asks for them."""

from dataclasses import replace

import pytest
import torch

from tests.bf16 import emulate
from tests.trainables.adapted import CLASSES, net_with, pixels_of, served, watched
from trainables.evaluation.inference import logits_of
from trainables.evaluation.metrics import score
from trainables.fixres.adapted_net import adapted_state
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import load_model
from trainables.fixres.held_out_score import HeldOutSet, score_held_out
from trainables.models import variants
from trainables.training.distributed import WorkerGroup
from trainables.training.trunk import read_trunk_spec
from trainables.training.validation import shared_logits

CPU = torch.device("cpu")
PLAIN = [arm for arm in ARMS if ARMS[arm].plain]


@pytest.fixture(scope="module")
def bf16_cell(made):
    """The cell of all arms, adapted in bf16: val's logits by arm, and its key."""
    with pytest.MonkeyPatch.context() as patch:
        emulate(patch)
        cell = replace(made.cell, seed=11)
        _, logits, _ = watched(cell, made.store, made.views)
    return cell, logits


@pytest.fixture
def in_bf16(monkeypatch):
    emulate(monkeypatch)


def net_of(made, cell, arm):
    trunk = read_trunk_spec(made.store, cell.trunk)
    state = adapted_state(made.store, cell.trunk, cell.key, arm)
    preprocessing = variants.preprocessing(variants.get(trunk.variant))
    return load_model(trunk, state, CLASSES), made.views.view("val", cell.transform), preprocessing


@pytest.mark.parametrize("arm", [arm for arm in PLAIN if not ARMS[arm].mirrors])
def test_a_net_has_the_same_logits_as_a_row_and_at_a_rung(made, bf16_cell, arm, in_bf16):
    cell, logits = bf16_cell
    model, view, preprocessing = net_of(made, cell, arm)
    at_rung = shared_logits(
        model,
        view,
        preprocessing,
        batch_size=cell.batch_size,
        device=CPU,
        group=WorkerGroup(),
        should_stop=lambda: False,
    )
    assert at_rung is not None and torch.equal(at_rung, logits[arm])
    again = logits_of(model, view, preprocessing, batch_size=cell.batch_size, device=CPU)
    assert torch.equal(again, logits[arm])


@pytest.mark.parametrize("arm", ARMS)
def test_the_emulation_is_felt_and_logits_are_finer_than_bf16(made, bf16_cell, arm):
    logits = bf16_cell[1][arm]
    assert (logits - made.logits[arm]).abs().max() > 1e-3
    assert (logits != logits.bfloat16().float()).float().mean() > 0.5


@pytest.mark.parametrize("arm", PLAIN)
def test_what_is_served_is_read_in_float32(made, bf16_cell, arm, in_bf16, monkeypatch):
    cell, read = bf16_cell[0], []

    def record(logits, *rest):
        read.append(logits)
        return score(logits, *rest)

    monkeypatch.setattr("trainables.fixres.held_out_score.score", record)
    images = made.views.images
    val = HeldOutSet(
        name="again", images=images.split("val"), digest=f"{arm} val", present=(0, 1, 2)
    )
    score_held_out(val, made.store, cell, (arm,), made.views)
    x, _ = pixels_of(images, "val", cell.transform)
    with torch.no_grad():
        net = net_with(adapted_state(made.store, cell.trunk, cell.key, arm))
        wanted = served(net, arm)(x)
    torch.testing.assert_close(read[0], wanted, rtol=1e-4, atol=1e-4)
