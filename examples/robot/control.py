"""The control loop: a gRPC client that asks for actions, does them, and stops where it is told to.

    python examples/robot/control.py push-v3 127.0.0.1:8001 --shift outside --rollouts 5

It knows nothing of Tocsin but a header that names the rollout. Behind a relay in `enforce`, an alarm comes back as the
status PERMISSION_DENIED in place of actions.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import grpc
import numpy as np
from numpy.typing import NDArray
from tasks import EXECUTED, SHIFTS, STATE, TASKS, Shift, World
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as service

Float32 = NDArray[np.float32]
Watch = Callable[[dict[str, Float32]], None]
SECONDS = 5.0  # that an answer may take


class Stopped(Exception):
    """No actions, on purpose: the monitor foresees a failure."""


class Remote:
    """A served policy. `session` names the rollout in the header x-session-id."""

    def __init__(self, channel: grpc.Channel, model: str) -> None:
        self._stub, self._model = service.GRPCInferenceServiceStub(channel), model

    def __call__(self, state: NDArray[np.floating], session: str) -> dict[str, Float32]:
        """`actions` (S, 16, 4) and `embedding` (64,) for a state (39,). Raises Stopped on an alarm that is enforced."""
        request = oip.ModelInferRequest(model_name=self._model)
        request.inputs.add(name="observation", datatype="FP32", shape=[1, STATE])
        request.raw_input_contents.append(np.asarray(state, "<f4").tobytes())
        try:
            response = self._stub.ModelInfer(request, metadata=[("x-session-id", session)], timeout=SECONDS)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.PERMISSION_DENIED:
                raise Stopped(error.details()) from None
            raise
        pairs = zip(response.outputs, response.raw_output_contents, strict=True)
        return {tensor.name: np.frombuffer(raw, "<f4").reshape(tensor.shape[1:]) for tensor, raw in pairs}


class Outcome(NamedTuple):
    """How a rollout came out: actions done, whether they succeeded, and whether the monitor ended it."""

    success: bool
    steps: int
    stopped: bool


def drive(world: World, policy: Remote, session: str, seed: int, shift: Shift, watch: Watch | None = None) -> Outcome:
    """One rollout. `watch` is shown every answer."""
    episode = world.begin(seed, shift)
    while not episode.has_ended:
        try:
            answer = policy(episode.observe(), session)
        except Stopped:
            return Outcome(False, episode.steps, True)
        if watch is not None:
            watch(answer)
        for action in answer["actions"][0, :EXECUTED].astype(np.float64):
            episode.act(action)
            if episode.has_ended:
                break
    return Outcome(episode.success, episode.steps, False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("address")
    parser.add_argument("--shift", default="usual", choices=("usual", *SHIFTS))
    parser.add_argument("--rollouts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    world = World(options.task)
    with grpc.insecure_channel(options.address) as channel:
        for seed in range(options.seed, options.seed + options.rollouts):
            shift = Shift.drawn(options.task, options.shift, seed)
            outcome = drive(world, Remote(channel, options.task), f"{options.shift}-{seed}", seed, shift)
            how = "stopped" if outcome.stopped else "succeeded" if outcome.success else "failed"
            print(f"{options.shift}-{seed}: {how} after {outcome.steps} steps", flush=True)


if __name__ == "__main__":
    main()
