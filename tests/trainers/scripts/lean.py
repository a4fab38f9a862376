"""Leave out optional packages that a trainer here needs not: a CPU second a process.

Imported first, it makes the packages seem not to be installed.
"""

import sys

sys.modules.update(
    dict.fromkeys(["datasets", "pandas", "pyarrow", "sklearn", "scipy", "trl", "wandb", "mlflow"])
)
