"""A probe: the chance of a wrong answer, learnt from labelled embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.detector import fitted
from tocsin_detectors.errors import SignalError
from tocsin_detectors.perceptron import Layer, Scaling, forward, layers_of, perceptron
from tocsin_detectors.training import Training, seeded, train

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData, Observations

ROWS = 50_000  # responses at most that the linear probe is fitted on
FOLDS = 5
LEAST = 2 * FOLDS  # responses of each kind, so that every fold holds two
PENALTIES = np.logspace(-4, 1, 11)  # of C in scikit-learn's terms: the smaller, the stronger the penalty


class Probe:
    """log P(wrong | x) / P(right | x): the log-odds that a labelled response with this embedding was wrong.

    Reads an embedding or hidden state, (n, D). Fitting also looks at labels, the signal `wrong`, (n, 1): 1 where the
    response was wrong, 0 where it was right, at least ten of each. Each dimension is divided by its deviation, so its
    unit does not matter. The log-odds are linear, with an L2 penalty chosen by the loss on held-out folds; or those of
    a network with one layer of `hidden` units. Knows the failures it was shown and none of another kind: calibrate an
    unsupervised detector beside it.

    Source: Alain and Bengio (2016), arXiv:1610.01644; of hidden states of language models Obeso et al. (2025),
    arXiv:2509.03531.
    """

    name: ClassVar[str] = "probe"
    source: ClassVar[str] = "Alain and Bengio 2016, arXiv:1610.01644"

    def __init__(self, signal: str = "embedding", wrong: str = "wrong", *, hidden: int = 0) -> None:
        if hidden < 0:
            raise ValueError(f"hidden is a number of units, or 0 for a linear probe, not {hidden}")
        self.reads, self.fits_on = (signal,), (wrong,)
        self.hidden = hidden
        self._layers: list[Layer] | None = None

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Learn from labelled responses. Raises SignalError when there are no labels, or fewer than ten of a kind."""
        (signal,), (wrong,) = self.reads, self.fits_on
        safe.require_finite(signal)
        if wrong not in safe.names():
            raise SignalError(
                f"probe learns from signal '{signal}' which answers are wrong, but there is no signal '{wrong}'; add "
                f"one that is 1 for each wrong response and 0 for each right one"
            )
        _require_labels(safe, wrong)
        scaling = Scaling.of(safe, signal)
        if self.hidden:
            layers = self._network(safe, scaling, seed)
        else:
            layers = [_linear(safe.sample(ROWS, seed=seed), signal, wrong, scaling, seed)]
        self._layers = scaling.absorbed(layers)
        return self

    def graph(self, *signals: Var) -> Var:
        """(n, D) -> (n, 1)."""
        return forward(fitted(self._layers, self.name), signals[0])

    def _network(self, safe: FittingData, scaling: Scaling, seed: int) -> list[Layer]:
        """A network of one hidden layer that takes standardised rows."""
        import torch

        mean, scale = scaling.tensors()
        entropy = torch.nn.functional.binary_cross_entropy_with_logits
        with seeded(seed):
            network = perceptron(len(scaling.mean), self.hidden, 1)

            def loss(rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
                return entropy(network((rows - mean) / scale), labels)

            train(network, loss, safe, (*self.reads, *self.fits_on), Training(), seed=seed)
        return layers_of(network)


def _require_labels(safe: FittingData, wrong: str) -> None:
    """Raises SignalError unless the signal holds one label a row, ten of each kind or more."""
    if safe.width(wrong) != 1:
        raise SignalError(f"signal '{wrong}' must hold one label a response, not {safe.width(wrong)} numbers")
    failures = 0
    for (labels,) in safe.finite(wrong):
        if strange := labels[(labels != 0) & (labels != 1)].tolist():
            raise SignalError(
                f"signal '{wrong}' must be 1 for a wrong response and 0 for a right one, not {strange[0]:g}"
            )
        failures += int(labels.sum())
    if min(failures, safe.rows - failures) < LEAST:
        raise SignalError(
            f"signal '{wrong}' says that {failures} of {safe.rows} responses are wrong; a probe needs at least {LEAST} "
            f"wrong and {LEAST} right ones"
        )


def _linear(rows: Observations, signal: str, wrong: str, scaling: Scaling, seed: int) -> Layer:
    """The penalised logistic regression of standardised rows, its penalty chosen by the mean loss on held-out folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold

    x: NDArray[np.float64] = (rows[signal].astype(np.float64) - scaling.mean) / scaling.scale
    labels = rows[wrong][:, 0] == 1
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x, labels))

    def held_out_loss(penalty: float) -> float:
        losses = []
        for train_rows, test_rows in folds:
            model = LogisticRegression(C=penalty, max_iter=1000).fit(x[train_rows], labels[train_rows])
            losses.append(log_loss(labels[test_rows], model.predict_proba(x[test_rows])[:, 1], labels=[False, True]))
        return float(np.mean(losses))

    best = min(PENALTIES, key=held_out_loss)
    model = LogisticRegression(C=best, max_iter=1000).fit(x, labels)
    return model.coef_.T.astype(np.float32), model.intercept_.astype(np.float32)
