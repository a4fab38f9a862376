"""What runs beside the training code: the reporter, checkpoints, the demo recipe.

Imports nothing from the rest of app, and only the standard library (the demo: NumPy).
"""

from llm_train.reporter import Reporter

__all__ = ["Reporter"]
