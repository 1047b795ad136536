"""Whether a tensor's first axis counts responses, where neither the configuration nor a fitted width says so."""

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
    """Whether values of that shape, which has at least one axis, are several responses rather than one response without
    a batch axis.

    Two axes or more count as a batch, because servers put the batch axis first. A single axis holds n responses of one
    number, or one response of n numbers: the signal's name decides. Raises Unscored `rows` where the name does not
    decide, and says what to configure.
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
