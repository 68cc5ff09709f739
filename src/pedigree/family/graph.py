"""The order of steps: parents first, otherwise as they stand in the file."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def ordered(parents: Mapping[str, Collection[str]]) -> tuple[list[str], list[str]]:
    """Names with all of their parents before them, and the names of one circle where there is one.

    Names among the parents that are no step of their own are passed over; they are told elsewhere.
    """
    order: list[str] = []
    state: dict[str, int] = {}  # 1: its parents are being looked at, 2: done
    for start in parents:
        trail = [start]
        while trail:
            name = trail[-1]
            state.setdefault(name, 1)
            waiting = [p for p in parents[name] if p in parents and state.get(p) != 2]
            circle = next((p for p in waiting if state.get(p) == 1), None)
            if circle is not None:
                return order, [*trail[trail.index(circle) :], circle]
            if waiting:
                trail.append(waiting[0])
                continue
            if state[name] != 2:
                state[name] = 2
                order.append(name)
            trail.pop()
    return order, []
