"""A probe of the model's own hidden states beside the entropy of its tokens, for the same wrong answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.report import Check, console
from benchmarks.streams.answers import TURN, Answer
from benchmarks.streams.by_task import add_row, gain, separation_by_task
from benchmarks.streams.telling import token_scores
from tocsin_detectors import Observations, compile
from tocsin_detectors.registry import parse

Float32 = NDArray[np.float32]
LAYERS = (10, 20, 30)  # of SmolLM2's 30
FOLDS, BATCH = 5, 16
BASELINE = "token_entropy"


def probe(answers: Sequence[Answer], folder: Path) -> tuple[dict[str, Any], list[Check]]:
    """AUROC of probes on each of LAYERS, fitted on other folds than they judge: folds drawn at random, and folds of
    tasks that the probe has seen no question of. `folder` keeps the hidden states.
    """
    hidden = hidden_states(answers, folder / f"hidden-{len(answers)}.npz")
    wrong = np.array([not answer.right for answer in answers])
    tasks = np.array([answer.question.task for answer in answers])
    baseline = token_scores(answers)[BASELINE]
    results: dict[str, Any] = {BASELINE: separation_by_task(baseline, wrong, tasks)}
    table = Table(
        "score", "AUROC", "95% interval", "within tasks", title=f"Wrong answers told, {len(answers):,} questions"
    )
    add_row(table, BASELINE, results[BASELINE])
    gains = Table("probe", "AUROC above token_entropy", "95% interval", title="The same answers, resampled together")
    for kind, folds in (("random folds", _random_folds(len(answers))), ("unseen tasks", _folds_of(tasks))):
        for layer in LAYERS:
            name = f"probe, layer {layer}, {kind}"
            scores = cross_fitted(hidden[layer], wrong, folds)
            more, (low, high) = gain(scores, baseline, wrong)
            results[name] = separation_by_task(scores, wrong, tasks) | {"gain": more, "gain interval": [low, high]}
            add_row(table, name, results[name])
            gains.add_row(name, f"{more:+.3f}", f"{low:+.3f} to {high:+.3f}")
    console.print(table, gains)
    middle = results[f"probe, layer {LAYERS[1]}, random folds"]["gain interval"][0]
    unseen = results[f"probe, layer {LAYERS[1]}, unseen tasks"]["gain interval"][0]
    return results, [
        Check(
            f"AUROC of the probe of layer {LAYERS[1]} above {BASELINE}, lower end", round(middle, 4), "> 0", middle > 0
        ),
        Check("the same, of tasks it has not seen, lower end", round(unseen, 4), "> 0", unseen > 0),
    ]


def cross_fitted(hidden: Float32, wrong: NDArray[np.bool_], folds: NDArray[np.intp]) -> NDArray[np.float64]:
    """The log-odds (n,) of hidden states (n, D), each by a probe that was fitted without its fold, less the log-odds of
    wrong answers among those it was fitted on: where a fold has more, the others have fewer.
    """
    scores = np.zeros(len(hidden))
    labels = wrong[:, None].astype(np.float32)
    for fold in np.unique(folds):
        held_out = folds == fold
        others = Observations({"embedding": hidden[~held_out], "wrong": labels[~held_out]})
        scorer = compile([parse("probe")], fit_on=others)
        scores[held_out] = scorer(Observations({"embedding": hidden[held_out]}))[:, 0]
        scores[held_out] -= np.log(wrong[~held_out].mean() / (1 - wrong[~held_out].mean()))
    return scores


def hidden_states(answers: Sequence[Answer], path: Path) -> dict[int, Float32]:
    """The hidden state (n, D) at the last token of each answer, by layer; kept in a file."""
    if not path.exists():
        console.print(f"running SmolLM2 over {len(answers):,} answers for its hidden states")
        states: dict[str, Any] = {str(layer): of_layer for layer, of_layer in _computed(answers).items()}
        np.savez(path, **states)
    with np.load(path) as stored:
        return {layer: stored[str(layer)] for layer in LAYERS}


def _computed(answers: Sequence[Answer]) -> dict[int, Float32]:
    import torch
    from examples.smollm2 import weights
    from transformers import AutoModel, AutoTokenizer

    file = weights()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModel.from_pretrained(file.parent, gguf_file=file.name).eval()
    texts = [TURN.format(answer.question.prompt) + answer.question.lead + answer.text for answer in answers]
    rows = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    states = {layer: np.zeros((len(answers), model.config.hidden_size), np.float32) for layer in LAYERS}
    order = sorted(range(len(rows)), key=lambda at: len(rows[at]))
    for begin in range(0, len(order), BATCH):
        batch = order[begin : begin + BATCH]
        longest = max(len(rows[at]) for at in batch)
        ids = torch.tensor([rows[at] + [0] * (longest - len(rows[at])) for at in batch])
        attended = torch.tensor([[1] * len(rows[at]) + [0] * (longest - len(rows[at])) for at in batch])
        with torch.no_grad():
            layers = model(input_ids=ids, attention_mask=attended, output_hidden_states=True).hidden_states
        for row, at in enumerate(batch):
            for layer in LAYERS:
                states[layer][at] = layers[layer][row, len(rows[at]) - 1].numpy()
    return states


def _random_folds(count: int) -> NDArray[np.intp]:
    return np.asarray(np.random.default_rng(8).permutation(count) % FOLDS, np.intp)


def _folds_of(tasks: NDArray[np.str_]) -> NDArray[np.intp]:
    """Folds of whole tasks, about equally many answers in each."""
    names, places, counts = np.unique(tasks, return_inverse=True, return_counts=True)
    sizes, fold_of = np.zeros(FOLDS), np.zeros(len(names), np.intp)
    for task in np.argsort(-counts):
        fold_of[task] = sizes.argmin()
        sizes[fold_of[task]] += counts[task]
    return np.asarray(fold_of[places], np.intp)
