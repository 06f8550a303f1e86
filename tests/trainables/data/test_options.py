"""Options of reading images."""

import pytest

from trainables.data.cache import SpaceRequest
from trainables.data.options import ReadOptions
from trainables.errors import UserError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_share": 0.0}, "`val_share` is 0.0"),
        ({"test_share": 1.5}, "`test_share` is 1.5"),
        ({"val_share": 0.5, "test_share": 0.5}, "leave nothing to train on"),
        ({"max_corrupt": -0.1}, "`max_corrupt` is -0.1"),
        ({"cache_side": 0}, "`cache_side` is 0"),
        ({"cache_gb": 0.0}, "`cache_gb` is 0.0"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(UserError, match=message):
        ReadOptions(**options)


def test_room_is_asked_for_in_words():
    assert ReadOptions(cache_side=64).space_request(9) == SpaceRequest(
        what="9 images at up to 64 px", smaller="a smaller `cache_side`"
    )
