"""The door of a training: whoever runs has half of the time, however many come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from softprompt.jobs.door import Door


def test_it_is_shut_before_the_first_step_and_open_behind_it() -> None:
    now = [5.0]
    door = Door(lambda: now[0])
    door.count(step=False)
    now[0] = 500.0
    door.count(step=False)  # what there was before the first step is counted for nobody
    assert not door.open
    door.count(step=True)
    assert door.open


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.booleans()), max_size=60))
def test_between_two_that_come_in_steps_have_at_least_half_of_the_time(times: list[tuple[bool, int, bool]]) -> None:
    """The twin adds up by itself what has been between two openings."""
    now = [0.0]
    door = Door(lambda: now[0])
    door.count(step=True)
    steps = aside = 0
    for step, seconds, asks in times:
        now[0] += seconds
        door.count(step=step)
        steps, aside = steps + seconds * step, aside + seconds * (not step)
        assert door.open == (steps >= aside)
        if asks and door.open:
            door.shut()
            steps = aside = 0
