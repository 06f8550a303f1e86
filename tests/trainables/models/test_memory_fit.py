import pytest
import torch

from trainables.errors import SweepError
from trainables.models.memory_fit import MemoryFit

CPU = torch.device("cpu")


def search(minimum, batch_size=None):
    return MemoryFit(CPU, minimum=minimum, error="Too large.", batch_size=batch_size)


@pytest.mark.parametrize("minimum", [1, 2])
@pytest.mark.parametrize("images", [2, 3, 8, 9, 32, 33, 100])
def test_halving_comes_down_to_the_minimum_and_ends_there(images, minimum):
    fit, tried = search(minimum), [images]
    while tried[-1] > minimum:
        fit.halve(images)
        assert fit.batch_size == max(minimum, (tried[-1] + 1) // 2)
        tried.append(fit.batch_size)
    assert tried == sorted(set(tried), reverse=True)
    with pytest.raises(SweepError, match=r"^Too large\.$"):
        fit.halve(images)
    assert tried[-1] == minimum == (fit.batch_size or images)


def test_whole_batches_are_tried_first():
    assert search(1).batch_size is None


def test_a_search_goes_on_where_an_earlier_one_ended():
    fit = search(2, batch_size=12)
    fit.halve(100)
    assert fit.batch_size == 6


def test_a_batch_of_fewer_images_than_known_to_fit_is_halved_itself():
    fit = search(2, batch_size=12)
    fit.halve(8)
    assert fit.batch_size == 4


def test_a_gpus_cache_is_freed_before_the_next_try(monkeypatch):
    freed: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(1))
    search(1).halve(8)
    assert freed == []
    MemoryFit(torch.device("cuda"), minimum=1, error="").halve(8)
    assert freed == [1]


@pytest.mark.parametrize("room", range(1, 13))
@pytest.mark.parametrize("whole", [1, 2, 7, 12])
def test_work_is_done_with_as_many_images_as_there_is_room_for(room, whole):
    fit, tried = search(1), []

    def work(images):
        tried.append(images)
        if images > room:
            raise torch.OutOfMemoryError("injected")
        return f"made of {images}"

    assert fit.run(work, whole) == f"made of {tried[-1]}"
    assert tried[0] == whole and tried[-1] <= room and all(images > room for images in tried[:-1])
    tried.clear()
    fit.run(work, whole)
    assert len(tried) == 1  # what is known to fit is where the next work begins


def test_work_that_does_not_fit_at_all_or_fails_otherwise_is_not_tried_for_ever():
    def too_large(_):
        raise torch.OutOfMemoryError("injected")

    with pytest.raises(SweepError, match=r"^Too large\.$"):
        search(1).run(too_large, 8)
    with pytest.raises(ZeroDivisionError):
        search(1).run(lambda _: 1 // 0, 8)


def test_what_has_grown_is_never_more_than_the_whole_batch():
    fit = search(2, batch_size=3)
    found = []
    for _ in range(4):
        fit.grow(12)
        found.append(fit.batch_size)
    assert found == [6, None, None, None]
