"""Containers of an image, run by crun as the kubelet has those of a pod run: unprivileged, on a read-only root.

Needs root, buildah for the image and crun for the containers. They share the network of this machine.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

# crun refuses the mix of old and new control groups that some machines have; these containers see the new kind.
CRUN = (
    "unshare", "--mount", "sh", "-c",
    "test -e /sys/fs/cgroup/cgroup.controllers || mount -t cgroup2 none /sys/fs/cgroup;"
    'exec crun --cgroup-manager=disabled "$@"',
    "crun",
)  # fmt: skip


class Image(NamedTuple):
    """An image's files, and what it says of itself: Env, Labels, User, Healthcheck ..."""

    root: Path
    config: dict[str, Any]


@contextmanager
def opened(name: str) -> Iterator[Image]:
    """The image, its files mounted, until the end of the block."""
    config = json.loads(_output("buildah", "inspect", "--type", "image", name))["Docker"]["config"]
    container = _output("buildah", "from", "--pull-never", name)
    try:
        yield Image(Path(_output("buildah", "mount", container)), config)
    finally:
        _output("buildah", "rm", container)


class Container:
    """One container: `folders` are mounted read-only at their keys, `written` so that the user can write there."""

    def __init__(
        self,
        image: Image,
        command: Sequence[str],
        security: Mapping[str, Any],
        folders: Mapping[str, Path] | None = None,
        written: Mapping[str, Path] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = f"tocsin-test-{uuid.uuid4().hex[:12]}"
        self._image, self._command, self._security = image, list(command), security
        self._folders, self._written = folders or {}, written or {}
        self._environment = environment or {}

    def specification(self) -> dict[str, Any]:
        """What the Open Container Initiative has a runtime told, by the security context of Kubernetes."""
        user = int(self._security["runAsUser"])
        assert self._security["capabilities"] == {"drop": ["ALL"]} and user
        mounts = [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
        ]
        for folders, access in ((self._folders, "ro"), (self._written, "rw")):
            mounts += [
                {"destination": at, "type": "bind", "source": str(folder), "options": ["bind", access]}
                for at, folder in folders.items()
            ]
        return {
            "ociVersion": "1.0.0",
            "process": {
                "args": self._command,
                "cwd": "/",
                "env": [*self._image.config["Env"], *(f"{name}={value}" for name, value in self._environment.items())],
                "user": {"uid": user, "gid": user},
                "capabilities": {},
                "noNewPrivileges": not self._security["allowPrivilegeEscalation"],
            },
            "root": {"path": str(self._image.root), "readonly": self._security["readOnlyRootFilesystem"]},
            "mounts": mounts,
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
        }

    @contextmanager
    def started(self, folder: Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """The container, running, until the end of the block; its output is that of the process."""
        bundle = folder / self.name
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(self.specification()))
        with subprocess.Popen([*CRUN, "run", "--bundle", str(bundle), self.name], text=True, **options) as process:
            try:
                yield process
            finally:
                _output(*CRUN, "delete", "--force", self.name)

    def run(self, folder: Path) -> subprocess.CompletedProcess[str]:
        """The container, from beginning to end."""
        with self.started(folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            output, _ = process.communicate(timeout=600)
        return subprocess.CompletedProcess(self._command, process.returncode, output)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container while it runs."""
        command = (*CRUN, "exec", self.name, *command)
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def signal(self, name: str) -> None:
        _output(*CRUN, "kill", self.name, name)


def needed(*programs: str) -> None:
    """Fail, rather than skip, where a program is missing: who runs these tests wants them to run."""
    missing = [program for program in programs if not shutil.which(program)]
    assert not missing, f"missing: {' '.join(missing)}; apt-get install buildah crun debootstrap"


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
