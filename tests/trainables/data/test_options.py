"""Options of reading images."""

import pytest

from trainables.data.cache import SpaceRequest
from trainables.data.options import ReadOptions
from trainables.errors import UserError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_share": 0.0}, "`val_share` 0.0 is out of bounds: give above 0 to below 0.5."),
        ({"test_share": 1.5}, "`test_share` 1.5 is out of bounds"),
        ({"val_share": 0.45, "test_share": 0.45}, "leave too little to train on: give 0.8"),
        ({"pick_share": 0.5}, "`pick_share` 0.5 is out of bounds: give above 0 to below 0.5."),
        ({"group_by": " "}, "`group_by` is empty: give a column of tables, or a pattern"),
        ({"max_corrupt": -0.1}, "`max_corrupt` -0.1 is out"),
        ({"cache_side": 0}, "`cache_side` 0 is out"),
        ({"cache_gb": 0.0}, "`cache_gb` 0.0 is out"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(UserError, match=message):
        ReadOptions(**options)


def test_room_is_asked_for_in_words():
    assert ReadOptions(cache_side=64).space_request(9) == SpaceRequest(
        what="9 images at up to 64 px", smaller="a smaller `cache_side`"
    )
