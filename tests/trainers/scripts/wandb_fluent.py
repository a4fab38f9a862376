"""What people write with W&B: nothing here knows this service."""

import math
import sys
from pathlib import Path

import wandb

run = wandb.init(
    project="a project of my own", name="my run", tags=["nlp"], notes="first try", resume="allow",
    config={"learning_rate": 1e-4, "layers": [1, 2], "flag": True, "nothing": math.nan},
)  # fmt: skip
for step in range(1, 21):
    run.log(
        {"loss": 1.0 / step, "odd": math.nan, "val": {"acc": step / 20}, "text": "x"}, step=step
    )
run.config.update({"late": 3})
run.summary["best"] = 0.75
Path("notes.txt").write_text("hello")
run.save("notes.txt")
try:
    run.log_artifact("notes.txt", name="notes", type="text").wait()
except Exception as error:
    print("no artifact:", error, flush=True)
run.finish(exit_code=int(sys.argv[1]))
print("all was logged", flush=True)
sys.exit(len(sys.argv[2:]))
