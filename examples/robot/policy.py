"""A generative policy: flow matching on states, chunks of actions, trained on demonstrations and exported to ONNX.

    python examples/robot/policy.py push-v3 push.onnx

The network learns which way to move a random chunk so that it becomes one that the expert would do (Lipman et al. 2022,
arXiv:2210.02747). Asked once, it gives S chunks and the embedding of the state that they were made from.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tasks import ACTIONS, CHUNK, STATE, TASKS, World
from torch import nn

from tocsin_detectors.onnx_runtime import onnxruntime

Float32 = NDArray[np.float32]

DEMONSTRATIONS, EPOCHS, BATCH, RATE = 150, 80, 512, 1e-3
EMBEDDING, HIDDEN, FLOW_STEPS, SAMPLES = 64, 256, 8, 256
WIDTH = CHUNK * ACTIONS


def demonstrate(task: str, count: int = DEMONSTRATIONS, seed: int = 0) -> tuple[Float32, Float32]:
    """States (n, 39) that the expert met while it was disturbed, and what it would have done from there (n, 16, 4)."""
    world, random = World(task), np.random.default_rng(seed)
    states, chunks = [], []
    for number in range(count):
        episode = world.begin(1_000_000 * (seed + 1) + number)
        observed, done = [], []
        disturbance = random.choice([0.0, 0.1, 0.3])
        after = 0
        while after < CHUNK and len(observed) < 200:
            action = episode.expert()
            observed.append(episode.observe())
            done.append(action)
            episode.act(action + random.normal(0, disturbance, ACTIONS) * np.array([1, 1, 1, 0]))
            after += episode.success
        for at in range(len(observed)):
            chunk = done[at : at + CHUNK]
            chunks.append(chunk + [chunk[-1]] * (CHUNK - len(chunk)))
            states.append(observed[at])
    return np.array(states, np.float32), np.array(chunks, np.float32)


class Policy(nn.Module):
    """States (n, 39) and noise (n S, 64) -> chunks (n S, 16, 4) and embeddings (n, 64)."""

    def __init__(self, states: Float32, chunks: Float32) -> None:
        super().__init__()
        spread = states.std(axis=0)
        self.register_buffer("centre", torch.tensor(states.mean(axis=0)))
        self.register_buffer("spread", torch.tensor(np.where(spread < 1e-4, 1.0, spread)))
        flat = chunks.reshape(len(chunks), -1)
        self.register_buffer("middle", torch.tensor(flat.mean(axis=0)))
        self.register_buffer("reach", torch.tensor(np.maximum(flat.std(axis=0), 0.05)))
        self.encoder = nn.Sequential(nn.Linear(STATE, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, EMBEDDING), nn.Tanh())
        self.moves = nn.Sequential(
            nn.Linear(EMBEDDING + WIDTH + 8, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(),
            nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, WIDTH),
        )  # fmt: skip

    def embed(self, states: torch.Tensor) -> torch.Tensor:
        return self.encoder(((states - self.centre) / self.spread).clamp(-8, 8))

    def velocity(self, embedding: torch.Tensor, chunk: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        angles = time * torch.tensor([1.0, 2.0, 4.0, 8.0]) * np.pi
        return self.moves(torch.cat([embedding, chunk, torch.sin(angles), torch.cos(angles)], dim=1))

    def loss(self, states: torch.Tensor, chunks: torch.Tensor) -> torch.Tensor:
        wanted = (chunks.reshape(len(chunks), -1) - self.middle) / self.reach
        noise, time = torch.randn_like(wanted), torch.rand(len(wanted), 1)
        moved = self.velocity(self.embed(states), noise + time * (wanted - noise), time)
        return ((moved - (wanted - noise)) ** 2).mean()

    def forward(self, observation: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = self.embed(observation)
        repeated = embedding.expand(noise.shape[0], EMBEDDING)
        chunk = noise
        for step in range(FLOW_STEPS):
            time = torch.full((noise.shape[0], 1), (step + 0.5) / FLOW_STEPS)
            chunk = chunk + self.velocity(repeated, chunk, time) / FLOW_STEPS
        actions = (chunk * self.reach + self.middle).reshape(-1, CHUNK, ACTIONS)
        return actions.clamp(-1, 1), embedding


def train(states: Float32, chunks: Float32, *, seed: int = 0, epochs: int = EPOCHS) -> Policy:
    """A policy that acts as the demonstrations do."""
    torch.manual_seed(seed)
    policy = Policy(states, chunks)
    x, y = torch.tensor(states), torch.tensor(chunks)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=RATE, weight_decay=1e-4)
    steps = epochs * (len(x) // BATCH + 1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for start in range(0, len(x), BATCH):
            rows = order[start : start + BATCH]
            optimiser.zero_grad()
            policy.loss(x[rows], y[rows]).backward()
            optimiser.step()
            schedule.step()
    return policy.eval()


def export(policy: Policy, path: Path) -> None:
    """The policy as ONNX: one observation, any number of chunks."""
    chunks = torch.export.Dim("chunks", min=2, max=4096)
    torch.onnx.export(
        policy, (torch.zeros(1, STATE), torch.zeros(SAMPLES, WIDTH)), path,
        input_names=["observation", "noise"], output_names=["actions", "embedding"],
        dynamic_shapes=({}, {0: chunks}), dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip


class Served:
    """A policy as it is served: a state in, S chunks and the embedding out. `seed` draws the noise."""

    def __init__(self, path: Path, seed: int = 0, samples: int = SAMPLES) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._random = np.random.default_rng(seed)
        self._samples = samples

    def __call__(self, state: NDArray[Any]) -> tuple[Float32, Float32]:
        noise = self._random.standard_normal((self._samples, WIDTH), np.float32)
        fed = {"observation": np.asarray(state, np.float32).reshape(1, STATE), "noise": noise}
        actions, embedding = self._session.run(["actions", "embedding"], fed)
        return actions, embedding[0]


def make(task: str, path: Path, seed: int = 0, *, demonstrations: int = DEMONSTRATIONS, epochs: int = EPOCHS) -> None:
    """Demonstrate, train and export."""
    states, chunks = demonstrate(task, demonstrations, seed)
    export(train(states, chunks, seed=seed, epochs=epochs), path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    make(options.task, options.out)
