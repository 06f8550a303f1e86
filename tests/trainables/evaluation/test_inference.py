import numpy as np
import torch

from tests.trainables.training.small_nets import net_of
from trainables.evaluation.inference import batches_of, logits_of, outputs_of
from trainables.models.variants import Preprocessing

PLAIN = Preprocessing(
    mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bicubic", crop_pct=1.0
)
CPU = torch.device("cpu")


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
    model = net_of(
        conv_stem=torch.nn.Flatten(),
        blocks=torch.nn.Dropout(0.5),
        bn2=norm,
        classifier=torch.nn.Linear(12, 4),
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


def test_outputs_of_any_shape_are_put_together_in_float32():
    view = np.random.default_rng(0).integers(0, 256, (5, 2, 2, 3), dtype=np.uint8)
    found = outputs_of(lambda x: x.bfloat16(), view, PLAIN, batch_size=2, device=CPU)
    assert found.dtype == torch.float32 and found.shape == (5, 3, 2, 2)
    wanted = torch.tensor(view).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(found, wanted.bfloat16().float())
    assert not found.requires_grad
