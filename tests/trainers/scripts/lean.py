"""Leave out what a trainer here needs not, for a process that starts in half the time.

Imported first, it makes optional packages seem not to be installed, and garbage is collected
less often: an import makes hundreds of thousands of objects and no garbage.
"""

import gc
import sys

gc.set_threshold(50_000, 20, 100)
sys.modules.update(
    dict.fromkeys(["datasets", "pandas", "pyarrow", "sklearn", "scipy", "trl", "wandb", "mlflow"])
)
