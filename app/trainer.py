"""The old name of `llm_train`: scripts that import it still work, with a warning."""

import warnings

from llm_train import Reporter

__all__ = ["Reporter"]

warnings.warn(
    "app.trainer is called llm_train now: write `from llm_train import Reporter`",
    FutureWarning,
    stacklevel=2,
)
