"""Five Meta-World tasks, how an episode begins and goes on, and the ways in which it can be other than in training."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any

import gymnasium
import metaworld  # noqa: F401 (registers the tasks)
import numpy as np
from metaworld.policies import ENV_POLICY_MAP
from numpy.typing import NDArray

warnings.filterwarnings("ignore", module="gymnasium|metaworld")
logging.getLogger("gymnasium").setLevel(logging.ERROR)

Float = NDArray[np.float64]

TASKS = ("reach-v3", "push-v3", "drawer-open-v3", "button-press-v3", "pick-place-v3")
STEPS = 160  # of an episode at most
STATE, ACTIONS = 39, 4
CHUNK, EXECUTED = 16, 8  # actions of a chunk, and how many of them are done before the policy is asked again
APART = 0.15  # metres at least between an object and its goal
FIXTURES = {"drawer-open-v3": "drawer", "button-press-v3": "box"}  # what stands still, and its part that moves
SHIFTS = ("outside", "noise", "weak", "delay", "pushed", "heavy")


@dataclass
class Shift:
    """How an episode differs from training; `usual` does not.

    `outside`: object and goal lie up to `amount` of their range beyond it; `noise`: observations have Gaussian noise of
    `amount` metres; `weak`: the arm moves by the share `amount` less than told; `delay`: each action is done `amount`
    steps later; `pushed`: in the middle the object, or what it is part of, is moved by up to `amount` metres along each
    axis; `heavy`: mass, friction and damping of what moves are `amount` times theirs.
    """

    kind: str = "usual"
    amount: float = 0.0

    @classmethod
    def drawn(cls, task: str, kind: str, seed: int) -> Shift:
        """One of that kind, of an amount that the seed draws, so that some attempts succeed and others do not."""
        if kind == "usual":
            return cls()
        low, high = (OF_FIXTURES if task in FIXTURES else OF_OBJECTS)[kind]
        return cls(kind, float(np.random.default_rng([seed, 23]).uniform(low, high)))


OF_OBJECTS = {
    "outside": (0.2, 1.0), "noise": (0.002, 0.012), "weak": (0.1, 0.5), "delay": (1.0, 7.0), "pushed": (0.02, 0.1),
    "heavy": (1.5, 8.0),
}  # fmt: skip
OF_FIXTURES = {  # what is fixed forgives more
    "outside": (0.8, 3.0), "noise": (0.05, 0.2), "weak": (0.3, 0.8), "delay": (4.0, 20.0), "pushed": (0.05, 0.25),
    "heavy": (100.0, 2000.0),
}  # fmt: skip


class Episode:
    """One attempt at a task. `observe` gives the state (39,), `act` takes an action (4,) in [-1, 1]."""

    def __init__(self, world: World, seed: int, shift: Shift) -> None:
        self._world, self._shift = world, shift
        self._random = np.random.default_rng([seed, 17])
        place = _place(self._random, world.space, shift.amount if shift.kind == "outside" else 0.0)
        self._state = world.reset(place, shift.amount if shift.kind == "heavy" else 1.0)
        self._hit = int(self._random.integers(20, 45))
        self._late: list[Float] = []
        self.steps = 0
        self.success = False

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self.success or self.steps >= STEPS

    def observe(self) -> Float:
        """The state as the policy sees it."""
        state = self._state.copy()
        if self._shift.kind == "noise":
            state[:36] += self._random.normal(0, self._shift.amount, 36) * (state[:36] != 0)
        return state

    def expert(self) -> Float:
        """What the scripted expert would do."""
        return np.asarray(np.clip(self._world.expert.get_action(self._state), -1, 1))

    def act(self, action: Float) -> None:
        """Do an action."""
        if self._shift.kind == "weak":
            action = action * np.array([1 - self._shift.amount] * 3 + [1.0])
        if self._shift.kind == "delay":
            self._late.append(action)
            action = self._late.pop(0) if len(self._late) > self._shift.amount else np.zeros(ACTIONS)
        if self._shift.kind == "pushed" and self.steps == self._hit:
            self._world.push_object(self._random.uniform(-1, 1, 2) * self._shift.amount)
        self._state, self.success = self._world.step(np.clip(action, -1, 1))
        self.steps += 1


class World:
    """A simulated task, one episode at a time, seen by a `camera` of the simulator's (which needs OpenGL)."""

    def __init__(self, task: str, camera: str | None = None) -> None:
        self.task, self.camera = task, camera
        camera_settings = (
            {} if camera is None else {"render_mode": "rgb_array", "camera_name": camera, "width": 320, "height": 320}
        )
        environment = gymnasium.make("Meta-World/MT1", env_name=task, seed=0, **camera_settings)
        environment.reset()
        self._inner: Any = environment.unwrapped  # what wraps it would put the object at one of fifty places
        self._masses = self._inner.model.body_mass.copy()
        self._friction = self._inner.model.geom_friction.copy()
        self._damping = self._inner.model.dof_damping.copy()
        space = self._inner._random_reset_space
        self.space: tuple[Float, Float] = (space.low.astype(np.float64), space.high.astype(np.float64))
        self.expert: Any = ENV_POLICY_MAP[task]()

    def begin(self, seed: int, shift: Shift | None = None) -> Episode:
        """An episode; the same seed and shift give the same one."""
        return Episode(self, seed, shift or Shift())

    def reset(self, place: Float, heaviness: float) -> Float:
        """Put object and goal at a place; the first state."""
        inner = self._inner
        inner.model.body_mass[:] = self._masses
        inner.model.geom_friction[:] = self._friction
        inner.model.dof_damping[:] = self._damping
        if heaviness != 1:
            bodies = [at for at in range(inner.model.nbody) if _moves(inner.model.body(at).name)]
            inner.model.body_mass[bodies] *= heaviness
            geoms = [at for at in range(inner.model.ngeom) if int(inner.model.geom_bodyid[at]) in bodies]
            inner.model.geom_friction[geoms] *= heaviness
            inner.model.dof_damping[[at for at, body in enumerate(inner.model.dof_bodyid) if body in bodies]] *= (
                heaviness
            )
        inner._freeze_rand_vec, inner._last_rand_vec = True, place.copy()
        state, _ = inner.reset()
        return np.asarray(state, np.float64)

    def step(self, action: Float) -> tuple[Float, bool]:
        """The next state, and whether the task is done."""
        state, _, _, _, info = self._inner.step(action.astype(np.float32))
        return np.asarray(state, np.float64), bool(info["success"] > 0.5)

    def push_object(self, by: Float) -> None:
        """Move the object sideways, or the fixture that it is part of."""
        inner = self._inner
        if self.task in FIXTURES:
            inner.model.body(FIXTURES[self.task]).pos[:2] += by
            inner._target_pos[:2] += by
            return
        qpos, qvel = inner.data.qpos.copy(), inner.data.qvel.copy()
        qpos[9:11] += by
        inner.set_state(qpos, qvel)

    def frame(self) -> NDArray[np.uint8]:
        """A picture (320, 320, 3) of it."""
        return np.asarray(self._inner.render())


def _moves(name: str) -> bool:
    return any(word in name.lower() for word in ("obj", "puck", "drawer", "button"))


def _place(random: np.random.Generator, space: tuple[Float, Float], amount: float) -> Float:
    """Where object and goal are: in their range, or one of them outside it in the plane, by up to `amount` widths."""
    low, high = space
    while True:
        place = random.uniform(low, high)
        if amount:
            ways = [axis for axis in range(len(place)) if axis % 3 != 2 and high[axis] > low[axis]]
            way = int(random.choice(ways))
            side = random.uniform(0.1, amount) * (high - low)[way]
            place[way] = low[way] - side if random.random() < 0.5 else high[way] + side
        if len(place) < 6 or np.linalg.norm(place[:2] - place[3:5]) >= APART:
            return place
