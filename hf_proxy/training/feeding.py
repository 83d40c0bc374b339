"""Rows that one mining of a run gives to the training that it watches."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset


@dataclass(frozen=True)
class FedRows:
    """What one mining of a run gives to train on.

    Attributes:
        rows: those with a kept step.
        number: of the mining, from 0.
        step: optimizer steps done when they were mined.
    """

    rows: Dataset
    number: int
    step: int

    def draw(self, step: int, num_rows: int, seed: int) -> list[dict[str, Any]]:
        """The rows of optimizer step `step` (from 0), `num_rows` on all processes together.

        Each row once, in an order of (seed, number), then each once more in another; a function of
        these numbers alone, so that a resumed run draws what it would have drawn.
        """
        first = (step - self.step) * num_rows
        places: list[int] = []
        while len(places) < num_rows:
            lap, start = divmod(first + len(places), len(self.rows))
            order = np.random.default_rng([seed, self.number, lap]).permutation(len(self.rows))
            places += order[start : start + num_rows - len(places)].tolist()
        return [self.rows[place] for place in places]
