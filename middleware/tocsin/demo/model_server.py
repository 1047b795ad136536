"""A real MLServer in an environment of its own, because its protobuf and ours need not agree."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import venv
from contextlib import suppress
from pathlib import Path

import numpy as np
from rich.console import Console

from tocsin.demo.digits import Digits
from tocsin.errors import StartError

REQUIREMENTS = ("mlserver==1.7.1", "scikit-learn>=1.4,<2")
START_SECONDS = 90.0
PORTS = range(20_000, 32_000)  # below those that systems give to outgoing connections


def environment(work: Path, console: Console) -> Path:
    """The Python that has MLServer, made on first use. Raises StartError when it cannot be made."""
    home = work / "mlserver-env"
    python = home / "bin" / "python"
    stamp = home / "installed"
    if stamp.exists() and stamp.read_text() == "\n".join(REQUIREMENTS):
        return python
    with console.status("installing MLServer into an environment of its own (once, about half a minute)"):
        venv.create(home, with_pip=True, clear=True)
        # compiled when imported, which most of it never is
        command = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", *REQUIREMENTS]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartError(f"MLServer cannot be installed: {' '.join(command)}\n{done.stderr.strip()[-2000:]}")
    stamp.write_text("\n".join(REQUIREMENTS))
    return python


def free_ports(count: int) -> list[int]:
    """Ports of this machine that are free now, of those that the system gives no outgoing connection meanwhile."""
    ports: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise StartError(f"no {count} ports of 127.0.0.1 between {PORTS.start} and {PORTS.stop - 1} are free")


class ModelServer:
    """MLServer with the digits model, ready for calls on `port`. A context manager."""

    def __init__(self, python: Path, work: Path, data: Digits) -> None:
        self.port, http = free_ports(2)
        self._log = work / "mlserver.log"
        folder = work / "model"
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "digits.npz", images=data.train, labels=data.labels)
        shutil.copy(Path(__file__).with_name("digits_runtime.py"), folder / "digits_runtime.py")
        model = {
            "name": "digits",
            "implementation": "digits_runtime.DigitsModel",
            "parameters": {"uri": str((folder / "digits.npz").resolve()), "version": "v1"},
            "inputs": [{"name": "image", "datatype": "FP64", "shape": [-1, 64]}],
            "outputs": [
                {"name": "predict", "datatype": "INT64", "shape": [-1, 1]},
                {"name": "predict_proba", "datatype": "FP64", "shape": [-1, 10]},
                {"name": "logits", "datatype": "FP64", "shape": [-1, 10]},
                {"name": "hidden", "datatype": "FP64", "shape": [-1, 64]},
            ],
        }
        settings = {
            "host": "127.0.0.1",
            "http_port": http,
            "grpc_port": self.port,
            "metrics_endpoint": None,
            "parallel_workers": 0,
            "debug": False,
        }
        (folder / "model-settings.json").write_text(json.dumps(model, indent=1))
        (folder / "settings.json").write_text(json.dumps(settings, indent=1))
        surroundings = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MLSERVER_"))}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python.with_name("mlserver")), "start", str(folder)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**surroundings, "PYTHONPATH": str(folder)},
            )

    def wait(self) -> None:
        """Until the model answers. Raises StartError with the end of its log when it does not."""
        import tritonclient.grpc as triton

        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with triton.InferenceServerClient(f"127.0.0.1:{self.port}") as client:
                    if client.is_model_ready("digits"):
                        return
            except triton.InferenceServerException:
                time.sleep(0.2)
        raise StartError(f"MLServer did not start; the end of {self._log}:\n{self._log.read_text()[-2000:]}")

    def __enter__(self) -> ModelServer:
        try:
            self.wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Tocsin:
    """A `tocsin` command that serves, from start to the end of draining. A context manager."""

    def __init__(self, arguments: list[str], port: int, log: Path) -> None:
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tocsin", *arguments], stdout=file, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        self.process.kill()
        raise StartError(f"tocsin did not start; the end of {log}:\n{log.read_text()[-2000:]}")

    def __enter__(self) -> Tocsin:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)  # nobody is left who could still come, as after SIGTERM
        self.process.wait(40)
