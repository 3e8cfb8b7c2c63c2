"""Batches as a pure function of (seed, step), so that a resumed run needs no random state."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

STEPS_PER_CHUNK = 256
"""Steps whose draws are made together; part of the definition of the batches, so it never changes."""


class BatchStream:
    """Rows of training items, drawn with replacement.

    The draws of each chunk of steps are raw bits of a PCG64 generator keyed by (seed, chunk), modulo the number of
    items: numpy guarantees that stream across versions, and the modulo's bias is below 1e-9 for any task that fits
    into memory. A chunk goes to the device in one piece, so that a step waits for no copy.
    """

    def __init__(self, *, seed: int, n_items: int, batch_size: int, device: torch.device | None = None) -> None:
        self.seed, self.n_items, self.batch_size = seed, n_items, batch_size
        self.device = torch.device("cpu") if device is None else device
        self._chunk = -1
        self._rows = torch.empty(0, dtype=torch.long)

    def rows(self, step: int) -> Int[Tensor, " batch"]:
        """The rows of one step, counted from 0."""
        chunk, place = divmod(step, STEPS_PER_CHUNK)
        if chunk != self._chunk:
            bits = np.random.PCG64(np.random.SeedSequence([self.seed, chunk]))
            raw = bits.random_raw(STEPS_PER_CHUNK * self.batch_size) % np.uint64(self.n_items)
            rows = torch.from_numpy(raw.astype(np.int64)).view(STEPS_PER_CHUNK, self.batch_size)
            self._rows = rows.to(self.device)
            self._chunk = chunk
        return self._rows[place]
