"""Several watchers as one."""

from __future__ import annotations

from sweeps.events.event_types import Event, SweepBegan, TrunkBegan, Watchers
from tests.factories import HYPER, plan_of, spec_with


class Recorder:
    """Records events with its own name, in a list that it shares with others."""

    def __init__(self, name: str, events: list[tuple[str, Event]]):
        self.name, self.events = name, events

    def on(self, event: Event) -> None:
        self.events.append((self.name, event))


def test_each_watcher_gets_each_event_in_their_order() -> None:
    plan = plan_of(spec_with())
    first, second = SweepBegan(plan=plan), TrunkBegan(trunk=plan.trunk(plan.points[0], HYPER))
    events: list[tuple[str, Event]] = []
    watchers = Watchers(Recorder(name, events) for name in "ab")
    for event in (first, second):
        watchers.on(event)
    assert events == [("a", first), ("b", first), ("a", second), ("b", second)]
