import asyncio

import pytest

from tests.waiting import HANG_S
from trainables.ray_backend.epoch_channel import EpochChannel


@pytest.mark.parametrize("ending", ["request_stop", "close"])
def test_who_waits_for_the_next_epoch_learns_that_there_is_none(ending):
    async def answers():
        channel = EpochChannel()
        await channel.request_epoch(1)
        waiting = asyncio.create_task(channel.wait_for_request(2))
        await asyncio.sleep(0)
        await getattr(channel, ending)()
        late = [await channel.wait_for_request(epoch) for epoch in (1, 2)]
        return [await asyncio.wait_for(waiting, 5), *late]

    assert asyncio.run(answers()) == [False, True, False]


def test_an_epoch_is_waited_for_until_it_is_requested():
    async def answers():
        channel = EpochChannel()
        waiting = [asyncio.create_task(channel.wait_for_request(epoch)) for epoch in (1, 1, 2)]
        await asyncio.sleep(0)
        await channel.request_epoch(1)
        done, pending = await asyncio.wait(waiting[:2], timeout=HANG_S)
        later = waiting[2].done()
        await channel.request_epoch(2)
        return [task.result() for task in done], len(pending), later, await waiting[2]

    assert asyncio.run(answers()) == ([True, True], 0, False, True)


def test_a_report_is_waited_for_and_had_once():
    async def reports():
        channel = EpochChannel()
        waiting = asyncio.create_task(channel.get_report(2))
        await channel.put_report(1, "first")
        await asyncio.sleep(0)
        early = waiting.done()
        await channel.put_report(2, "second")
        found = [await asyncio.wait_for(waiting, 5), await channel.get_report(1)]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(channel.get_report(1), 0.01)
        return early, found

    assert asyncio.run(reports()) == (False, ["second", "first"])


def test_closing_is_no_request_to_stop():
    async def stops():
        channel = EpochChannel()
        waiting = asyncio.create_task(channel.wait_for_stop())
        await channel.close()
        await asyncio.sleep(0.01)
        early = waiting.done()
        await channel.request_stop()
        await asyncio.wait_for(waiting, 5)
        return early

    assert asyncio.run(stops()) is False
