"""Model servers run for real, the relay before them: what docs/servers.md says was run.

    python -m venv /tmp/ray && /tmp/ray/bin/pip install 'ray[serve]>=2.60' 'grpcio-reflection>=1.81,<1.82'
    python -m benchmarks.servers --only ray --python /tmp/ray/bin/python --json ray.json

    python -m venv /tmp/dynamo && /tmp/dynamo/bin/pip install --no-deps ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1
    /tmp/dynamo/bin/pip install uvloop 'pydantic<=2.13.5' aiohttp certifi msgspec numpy packaging prometheus_client \
        pyyaml pyzmq redis tqdm typing-extensions zstandard
    python -m benchmarks.servers --only dynamo --python /tmp/dynamo/bin/python --json dynamo.json

Each server has an environment of its own, because its dependencies are not Tocsin's; of Dynamo's, what a worker without
a language model needs. A minute each on two cores. Tocsin's own environment needs grpcio-tools (the extra `demo`).
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import arguments, finish
from benchmarks.servers.dynamo_frontend import try_dynamo
from benchmarks.servers.ray_serve import try_ray

SERVERS = {"ray": try_ray, "dynamo": try_dynamo}


def main() -> None:
    """Run each server, print and check."""
    options = arguments(
        __doc__ or "",
        python={"type": Path, "required": True, "help": "the interpreter that has the servers"},
        only={"nargs": "*", "required": True, "choices": [*SERVERS], "help": "the servers to run"},
    )
    results, checks = {}, []
    for name in options.only:
        results[name], more = SERVERS[name](options.python.absolute())
        checks += more
    finish(results, checks, options.json)


if __name__ == "__main__":
    main()
