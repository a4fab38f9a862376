"""A character-level language model in NumPy: small, real, and trained by hand-written gradients.

Each of the last C characters is embedded, a tanh layer reads them together, a softmax gives the
next character (Bengio et al., 2003). Adam trains it.

init, loss, gradients, sample   the model, as functions of its parameters
Adam                            the optimizer
Text                            a text as numbers, in batches
Training                        all of these at one step, saved and loaded bit for bit

Shapes: B windows, C characters of context, E embedding, H hidden, V vocabulary.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Params = dict[str, Floats]

EMBEDDING = 24


def init(
    rng: np.random.Generator,
    vocabulary: int,
    context: int,
    hidden: int,
    dtype: npt.DTypeLike = np.float32,
) -> Params:
    """Return random parameters, scaled so that each layer's outputs start near unit variance."""

    def normal(*shape: int, scale: float = 1.0) -> Floats:
        return np.asarray(rng.standard_normal(shape) * scale / np.sqrt(shape[0]), dtype)

    inputs = context * EMBEDDING
    return {
        "embedding": rng.standard_normal((vocabulary, EMBEDDING)).astype(dtype),
        "w1": normal(inputs, hidden),
        "b1": np.zeros(hidden, dtype),
        "w2": normal(hidden, vocabulary, scale=0.1),
        "b2": np.zeros(vocabulary, dtype),
    }


def loss(params: Params, windows: Ints, targets: Ints) -> float:
    """Return the mean cross-entropy in nats per character. `windows` (B, C), `targets` (B,)."""
    _, _, log_probabilities = _forward(params, windows)
    return float(-log_probabilities[np.arange(len(targets)), targets].mean())


def gradients(params: Params, windows: Ints, targets: Ints) -> tuple[float, Params]:
    """Return the loss as above and its gradient with respect to each parameter."""
    inputs, hidden, log_probabilities = _forward(params, windows)
    rows = np.arange(len(targets))
    value = float(-log_probabilities[rows, targets].mean())

    d_logits = np.exp(log_probabilities)
    d_logits[rows, targets] -= 1
    d_logits /= len(targets)
    d_hidden = d_logits @ params["w2"].T
    d_hidden *= 1 - hidden * hidden
    d_inputs = d_hidden @ params["w1"].T
    # One-hot times gradient: a matrix product adds up repeated characters far faster than add.at.
    one_hot = np.zeros((windows.size, len(params["embedding"])), d_inputs.dtype)
    one_hot[np.arange(windows.size), windows.ravel()] = 1
    return value, {
        "embedding": one_hot.T @ d_inputs.reshape(windows.size, -1),
        "w1": inputs.T @ d_hidden,
        "b1": d_hidden.sum(axis=0),
        "w2": hidden.T @ d_logits,
        "b2": d_logits.sum(axis=0),
    }


def _forward(params: Params, windows: Ints) -> tuple[Floats, Floats, Floats]:
    """Return the inputs (B, C·E), the hidden layer (B, H) and the log-probabilities (B, V)."""
    inputs = params["embedding"][windows].reshape(len(windows), -1)
    hidden = np.tanh(inputs @ params["w1"] + params["b1"])
    logits = hidden @ params["w2"] + params["b2"]
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return inputs, hidden, logits


def sample(params: Params, text: "Text", length: int) -> str:
    """Let the model write `length` characters, always the same ones for the same parameters."""
    rng, written = np.random.default_rng(0), text.held_out(1)[0][0].tolist()
    context = len(written)
    for _ in range(length):
        _, _, log_probabilities = _forward(params, np.array([written[-context:]]))
        p = np.exp(log_probabilities[0].astype(np.float64))
        written.append(int(rng.choice(len(p), p=p / p.sum())))
    return "".join(text.vocabulary[number] for number in written[context:])


class Adam:
    """Adam (Kingma and Ba, 2015), in place. State: first and second moments, and the step count."""

    BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-8

    def __init__(self, params: Params) -> None:
        self.t = 0
        self.m = {name: np.zeros_like(value) for name, value in params.items()}
        self.v = {name: np.zeros_like(value) for name, value in params.items()}

    def update(self, params: Params, gradients: Params, learning_rate: float) -> None:
        self.t += 1
        scale = learning_rate * float(np.sqrt(1 - self.BETA2**self.t)) / (1 - self.BETA1**self.t)
        for name, gradient in gradients.items():
            m, v = self.m[name], self.v[name]
            m += (1 - self.BETA1) * (gradient - m)
            v += (1 - self.BETA2) * (gradient * gradient - v)
            params[name] -= scale * m / (np.sqrt(v) + self.EPSILON)


class Text:
    """A text as numbers: 9 parts to train on, the last part held out.

    `vocabulary` is its characters, sorted; their positions are the numbers.
    """

    def __init__(self, text: str, context: int) -> None:
        """Split the text. Raises ValueError if it is too short to hold anything out."""
        self.vocabulary = "".join(sorted(set(text)))
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        alphabet = np.frombuffer(self.vocabulary.encode("utf-32-le"), np.uint32)
        numbers = np.searchsorted(alphabet, codes)
        split = len(numbers) * 9 // 10
        if len(numbers) - split <= context:
            raise ValueError(f"a text of {len(text)} characters is too short to train on")
        self._context = np.arange(-context, 0)
        self._train, self._held_out = numbers[:split], numbers[split:]

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Ints, Ints]:
        """Return random training windows (size, context), and the next characters (size,)."""
        at = rng.integers(len(self._context), len(self._train), size)
        return self._train[at[:, None] + self._context], self._train[at]

    def held_out(self, size: int) -> tuple[Ints, Ints]:
        """Return always the same windows, spread evenly over the held-out part."""
        at = np.linspace(len(self._context), len(self._held_out) - 1, size).astype(np.intp)
        return self._held_out[at[:, None] + self._context], self._held_out[at]

    def unigram_entropy(self) -> float:
        """Return the cost of guessing by frequency alone, in nats per character."""
        counts = np.bincount(self._train, minlength=len(self.vocabulary))
        p = counts[counts > 0] / len(self._train)
        return float(-(p * np.log(p)).sum())


class Training:
    """Model, optimizer and random generator at one step: exactly what a checkpoint holds."""

    def __init__(self, text: Text, context: int, hidden: int, seed: int) -> None:
        self.text, self.context, self.hidden = text, context, hidden
        self.step = 0
        self.rng = np.random.default_rng(seed)
        self.params = init(self.rng, len(text.vocabulary), context, hidden)
        self.adam = Adam(self.params)

    def advance(self, batch_size: int, learning_rate: float) -> float:
        """Take one step; return the loss of its batch before the update."""
        value, gradient = gradients(self.params, *self.text.batch(self.rng, batch_size))
        self.adam.update(self.params, gradient, learning_rate)
        self.step += 1
        return value

    def save(self, directory: Path) -> None:
        np.savez(directory / "model.npz", allow_pickle=False, **self._arrays())
        state = {
            "step": self.step,
            "adam_t": self.adam.t,
            "rng": self.rng.bit_generator.state,
            "context": self.context,
            "hidden": self.hidden,
            "vocabulary": self.text.vocabulary,
        }
        (directory / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")

    def load(self, directory: Path) -> None:
        """Go on from what `save` wrote. Raises ValueError when that was another model or text."""
        state = json.loads((directory / "state.json").read_text(encoding="utf-8"))
        for name in ("context", "hidden"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"it was trained with {name} {state[name]} and this run asks for {name} "
                    f"{getattr(self, name)}: a resumed run keeps its {name}"
                )
        if state["vocabulary"] != self.text.vocabulary:
            raise ValueError("it was trained on another text")
        with np.load(directory / "model.npz", allow_pickle=False) as saved:
            for name, array in self._arrays().items():
                array[...] = saved[name]
        self.rng.bit_generator.state = state["rng"]
        self.step, self.adam.t = state["step"], state["adam_t"]

    def _arrays(self) -> Params:
        parts = {"params": self.params, "adam_m": self.adam.m, "adam_v": self.adam.v}
        return {f"{part}.{name}": arrays[name] for part, arrays in parts.items() for name in arrays}
