"""The life of a cube: its states, and how it may pass from one to another (paper §5.4).

```
generated ──▶ activated ──▶ merged ──▶ archived ──▶ expired
                  ◀────────────┘          │
                  ◀───────────────────────┘        frozen: as any state but expired, and back
```
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from memos_core.cube import State

# A merged or an archived cube is brought back as activated. What has expired stays so. A frozen one
# returns to the state it had, or ends if it was made of what changed meanwhile. A state follows
# itself: to say it twice changes nothing.
NEXT: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.GENERATED: frozenset(
            {
                State.ACTIVATED,
                State.MERGED,
                State.ARCHIVED,
                State.EXPIRED,
                State.FROZEN,
            }
        ),
        State.ACTIVATED: frozenset({State.MERGED, State.ARCHIVED, State.EXPIRED, State.FROZEN}),
        State.MERGED: frozenset({State.ACTIVATED, State.ARCHIVED, State.EXPIRED, State.FROZEN}),
        State.ARCHIVED: frozenset({State.ACTIVATED, State.EXPIRED, State.FROZEN}),
        State.EXPIRED: frozenset(),
        State.FROZEN: frozenset(
            {
                State.GENERATED,
                State.ACTIVATED,
                State.MERGED,
                State.ARCHIVED,
            }
        ),
    }
)
# What a search answers with unless it is asked otherwise; and, beside them, what was merged into
# cubes that the asker may not read.
SEARCHED = (State.GENERATED, State.ACTIVATED, State.FROZEN)


def before(state: State) -> tuple[State, ...]:
    """Return the states from which a cube may pass to ``state``; a frozen one must thaw first."""
    return tuple(one for one, others in NEXT.items() if state in others and one is not State.FROZEN)
