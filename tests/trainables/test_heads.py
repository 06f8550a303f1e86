import pytest
import torch
import torch.nn.functional as F

from trainables.heads import HeadGrid, Heads, HeadSetting, best, epoch_order, fit

N, WIDTH, CLASSES = 70, 12, 4
GRID = HeadGrid(
    lr=(0.03, 0.3), label_smoothing=(0.0, 0.1), epochs=(1, 2, 5), batch_size=16, weight_decay=0.01
)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(N, WIDTH, generator=generator)
    labels = (features[:, :CLASSES] + 0.5 * torch.randn(N, CLASSES, generator=generator)).argmax(1)
    weight = 0.1 * torch.randn(CLASSES, WIDTH, generator=generator)
    bias = 0.1 * torch.randn(CLASSES, generator=generator)
    return features, labels, weight, bias


def fitted(data, grid, seed):
    features, labels, weight, bias = data
    return fit(features, labels, weight, bias, grid, seed=seed)


def plain_loop(data, grid, setting, seed):
    features, labels, weight, bias = data
    head = torch.nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    optimizer = torch.optim.SGD(
        head.parameters(), setting.lr, momentum=grid.momentum, weight_decay=grid.weight_decay
    )
    for epoch in range(1, setting.epochs + 1):
        order = epoch_order(len(features), seed, epoch)
        for start in range(0, len(order), grid.batch_size):
            chosen = order[start : start + grid.batch_size]
            loss = F.cross_entropy(
                head(features[chosen]), labels[chosen], label_smoothing=setting.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return head


def test_all_settings_at_once_are_plain_loops(data):
    features = data[0]
    heads = fitted(data, GRID, seed=3)
    assert set(heads.settings) == {
        HeadSetting(lr=lr, label_smoothing=smoothing, epochs=epochs)
        for lr in (0.03, 0.3)
        for smoothing in (0.0, 0.1)
        for epochs in (1, 2, 5)
    }
    assert len(heads.settings) == len(heads.weight) == len(heads.bias) == 12
    logits = heads.logits(features)
    for i, setting in enumerate(heads.settings):
        wanted = plain_loop(data, GRID, setting, seed=3)
        torch.testing.assert_close(heads.weight[i], wanted.weight.data, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(heads.bias[i], wanted.bias.data, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits[:, i], wanted(features).detach(), rtol=1e-4, atol=1e-4)
    assert len({tuple(w.flatten().tolist()) for w in heads.weight}) == 12


@pytest.mark.parametrize(
    "grid",
    [
        HeadGrid(lr=(0.1,), label_smoothing=(0.0,), epochs=(2,), batch_size=1000),
        HeadGrid(lr=(0.1,), label_smoothing=(0.2,), epochs=(2,), batch_size=7, momentum=0.0),
        HeadGrid(lr=(0.1,), label_smoothing=(0.0,), epochs=(3,), batch_size=69, weight_decay=0.0),
    ],
    ids=["one batch", "no momentum", "a last batch of one"],
)
def test_other_grids_are_plain_loops_too(data, grid):
    heads = fitted(data, grid, seed=0)
    wanted = plain_loop(data, grid, heads.settings[0], seed=0)
    torch.testing.assert_close(heads.weight[0], wanted.weight.data, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(heads.bias[0], wanted.bias.data, rtol=1e-5, atol=1e-5)


def test_a_setting_does_not_depend_on_its_neighbours(data):
    together = fitted(data, GRID, seed=0)
    for i, s in enumerate(together.settings):
        alone = HeadGrid(
            lr=(s.lr,),
            label_smoothing=(s.label_smoothing,),
            epochs=(s.epochs,),
            batch_size=GRID.batch_size,
            weight_decay=GRID.weight_decay,
        )
        torch.testing.assert_close(fitted(data, alone, seed=0).weight[0], together.weight[i])


def test_the_same_arguments_give_the_same_heads_and_another_seed_others(data):
    one, again, other = (fitted(data, GRID, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.weight, again.weight)
    assert torch.equal(one.bias, again.bias)
    assert not torch.allclose(one.weight, other.weight)


def test_the_start_is_left_as_it_was(data):
    before = [tensor.clone() for tensor in data]
    fitted(data, GRID, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(data, before, strict=True))


def test_an_epochs_order_holds_everyone_once_and_is_new_each_epoch():
    orders = [epoch_order(50, seed, epoch).tolist() for seed in (0, 1) for epoch in (1, 2, 3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 6
    assert epoch_order(50, 1, 2).tolist() == epoch_order(50, 1, 2).tolist()


def test_repeated_numbers_of_epochs_count_once():
    grid = HeadGrid(lr=(1.0,), label_smoothing=(0.0,), epochs=(3, 1, 3), batch_size=4)
    assert [s.epochs for s in grid.settings] == [1, 3]


def heads_of(*weights):
    settings = tuple(
        HeadSetting(lr=float(i), label_smoothing=0.0, epochs=1) for i in range(len(weights))
    )
    weight = torch.tensor(weights).view(len(weights), 2, 1)
    return Heads(settings, weight, torch.zeros(len(weights), 2))


# One feature, two classes: a head of weights (a, b) says 0 where a f > b f.
FEATURES, LABELS = torch.tensor([[1.0], [1.0], [-1.0]]), torch.tensor([0, 0, 1])


@pytest.mark.parametrize(
    ("weights", "chosen"),
    [
        (((-1.0, 1.0), (0.1, -0.1)), 1),  # 0 hits, 3 hits
        (((0.1, -0.1), (1.0, -1.0)), 1),  # equal hits, the second surer
        (((1.0, -1.0), (0.1, -0.1)), 0),
        (((9.0, 9.0), (0.1, -0.1), (3.0, -3.0), (2.0, -2.0)), 2),
        (((1.0, -1.0), (1.0, -1.0)), 0),  # no difference: the first
    ],
)
def test_the_best_head_has_most_hits_and_then_the_least_loss(weights, chosen):
    assert best(heads_of(*weights), FEATURES, LABELS) == chosen


def test_hits_count_before_loss():
    unsure, overconfident = (-0.01, 0.01), (9.0, -9.0)
    labels = torch.tensor([0, 1, 1])  # 1 hit at a loss of 0.7, and 2 hits at a loss of 6
    assert best(heads_of(unsure, overconfident), FEATURES, labels) == 1


def test_a_head_that_is_not_finite_is_never_the_best():
    nan = float("nan")
    labels = torch.tensor([0, 0, 0])  # argmax of NaN is class 0
    assert best(heads_of((nan, nan), (0.1, -0.1)), FEATURES, labels) == 1
    assert best(heads_of((-0.1, 0.1), (nan, nan)), FEATURES, LABELS) == 0


def test_a_learning_rate_that_explodes_spoils_no_other(data):
    features, labels = data[:2]
    grid = HeadGrid(lr=(1e30, 0.1), label_smoothing=(0.0,), epochs=(1, 3), batch_size=16)
    heads = fitted(data, grid, seed=0)
    chosen = heads.settings[best(heads, features, labels)]
    assert chosen.lr == 0.1
    wanted = plain_loop(data, grid, chosen, seed=0)
    i = heads.settings.index(chosen)
    torch.testing.assert_close(heads.weight[i], wanted.weight.data, rtol=1e-5, atol=1e-5)
