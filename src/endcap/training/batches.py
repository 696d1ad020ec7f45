"""Questions and a random stream in, batches of one day each out, in an order that can be taken up in its middle."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


class BatchOrder:
    """Batches of one pass: shuffled within the day, days in random order."""

    def __init__(self, day_of_question: IntArray, usable: IntArray, batch_size: int, rng: np.random.Generator) -> None:
        """`usable` are the rows to take; `rng` is shared with whoever draws for the steps."""
        self._days, self._usable, self._batch_size, self._rng = day_of_question, usable, batch_size, rng
        self._began_with: dict[str, Any] | None = None
        self._batches: list[IntArray] = []
        self.position = 0
        """How many batches of the pass were taken."""

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def is_under_way(self) -> bool:
        """Whether a pass was begun and not yet ended."""
        return self._began_with is not None

    def begin(self) -> None:
        """Draw the order of another pass."""
        self._began_with = dict(self._rng.bit_generator.state)
        self._batches, self.position = self._drawn(), 0

    def end(self) -> None:
        """Forget the pass."""
        self._began_with, self._batches, self.position = None, [], 0

    def take(self) -> IntArray | None:
        """The next batch; None when the pass has no more."""
        if self.position == len(self._batches):
            return None
        self.position += 1
        return self._batches[self.position - 1]

    def state(self) -> dict[str, Any]:
        """Where the pass stands: what its order was drawn with, not the order itself, which may be long."""
        return {"began_with": self._began_with, "position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        """Take a pass up where it stood. Moves the random stream: whoever shares it sets it afterwards."""
        self.end()
        if state["began_with"] is not None:
            self._rng.bit_generator.state = state["began_with"]
            self.begin()
            self.position = int(state["position"])

    def _drawn(self) -> list[IntArray]:
        days = self._days[self._usable]
        batches: list[IntArray] = []
        for day in np.unique(days):
            rows = self._usable[days == day]
            self._rng.shuffle(rows)
            batches += np.array_split(rows, max(1, round(len(rows) / self._batch_size)))
        return [batches[place] for place in self._rng.permutation(len(batches))]
