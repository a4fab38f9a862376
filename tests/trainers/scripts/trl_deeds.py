"""TRL's own script as it is, in a process that does the deed of the run."""

import runpy

from deeds import after_step
from transformers import TrainerCallback
from transformers.trainer import DEFAULT_CALLBACKS


class Deeds(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        after_step(state.global_step)


DEFAULT_CALLBACKS.append(Deeds)
runpy.run_module("trl.scripts.sft", run_name="__main__", alter_sys=True)
