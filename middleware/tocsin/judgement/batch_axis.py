"""Whether a tensor's first axis is one of responses, where neither the configuration nor a fitted width tells."""

from __future__ import annotations

from tocsin.unscored import Unscored

# Signals of one number a response, and of several, by the names that detectors read them by.
SCALARS = frozenset({"prediction", "label", "target", "score"})
VECTORS = frozenset(
    {
        "probs", "logits", "embedding", "quantiles", "actions", "preferences",
        "choice_probs", "swapped_choice_probs", "rating_probs",
        "token_logprobs", "token_ids", "tokens", "top_logprobs",
        "answer_embeddings", "answer_logprobs", "answer_tokens",
    }
)  # fmt: skip


def is_batched(model: str, signal: str, shape: tuple[int, ...], *, has_free_length: bool) -> bool:
    """Whether values of that shape, at least one axis, are several responses, or one in a batch of one.

    Two axes or more are: servers of batches put them first. One axis alone is n responses of a number, or one of n
    numbers, as the signal's name tells. Raises Unscored `rows`, saying what to configure, where it does not.
    """
    if len(shape) > 1 or shape[0] < 2 or signal in SCALARS:
        return True
    if signal in VECTORS or has_free_length:
        return False
    raise Unscored(
        "rows",
        f"signal '{signal}' has the shape [{shape[0]}], which is {shape[0]} responses or one of {shape[0]} numbers: "
        f"say which by models.{model}.batched, `{{{signal}: true}}` or `{{{signal}: false}}`",
    )
