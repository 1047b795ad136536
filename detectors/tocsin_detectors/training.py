"""Fitting networks with torch: AdamW, cosine decay, early stopping on held-out responses. Serving needs none of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tocsin_detectors.errors import SignalError
from tocsin_detectors.observation import FittingData

if TYPE_CHECKING:
    import torch

EPOCH = 100_000  # rows; what is larger is seen in several epochs, each followed by a look at what is held out
HELD_OUT = 20_000  # rows at most


@dataclass(frozen=True)
class Training:
    """`epochs` at most, fewer when the held-out loss has not improved for `patience` of them; `batch` rows a step."""

    epochs: int = 250
    learning_rate: float = 1e-3
    batch: int = 256
    patience: int = 25


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch draws by this seed, and as before afterwards."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def train(
    network: torch.nn.Module,
    loss: Callable[..., torch.Tensor],
    safe: FittingData,
    signals: tuple[str, ...],
    settings: Training,
    *,
    seed: int,
) -> None:
    """Minimise the mean of `loss(*batches of the signals)` over the network's parameters; the best ones are kept.

    A tenth of the responses is held out for early stopping. Batches are float32 of shape (rows, width). Raises
    SignalError when there are fewer than 20 rows or they are not finite.
    """
    import torch

    if safe.rows < 20:
        raise SignalError(f"learning from '{signals[0]}' needs at least 20 rows, not {safe.rows}")
    safe.require_finite(*signals)
    rng = np.random.default_rng(seed)
    order = rng.permutation(safe.rows)
    held = min(max(2, safe.rows // 10), HELD_OUT)
    aside = safe.take(np.sort(order[:held])).load()
    held_out = [torch.from_numpy(aside[name]) for name in signals]
    rest = safe.take(np.sort(order[held:]))
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=settings.epochs)
    steps = _steps(rest, signals, rng, settings.batch)
    lowest, best, waited = float("inf"), deepcopy(network.state_dict()), 0
    for _ in range(settings.epochs):
        samples = 0
        while samples < min(rest.rows, EPOCH):
            batch = next(steps)
            optimiser.zero_grad()
            loss(*batch).backward()
            optimiser.step()
            samples += len(batch[0])
        schedule.step()
        with torch.no_grad():
            now = loss(*held_out).item()
        if now < lowest:
            lowest, best, waited = now, deepcopy(network.state_dict()), 0
        elif (waited := waited + 1) >= settings.patience:
            break
    network.load_state_dict(best)


def _steps(
    safe: FittingData, signals: tuple[str, ...], rng: np.random.Generator, size: int
) -> Iterator[list[torch.Tensor]]:
    """Mini-batches without end, shuffled anew each time through."""
    import torch

    while True:
        for part in safe.batches(rng):
            tensors = [torch.from_numpy(part[name]) for name in signals]
            for start in range(0, part.rows, size):
                yield [tensor[start : start + size] for tensor in tensors]
