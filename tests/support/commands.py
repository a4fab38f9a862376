"""`llm-train` within the test's own process, which saves each call a second of start-up."""

import gc
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import NamedTuple

import pytest

from app.cli.main import main


class Done(NamedTuple):
    """How a command ended: its exit status, stdout and stderr."""

    status: int
    out: str
    err: str


def llm_train(*arguments: str, **settings: str) -> Done:
    """Runs a command with these settings: `PORT="1"` is LLM_TRAIN_PORT."""
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["llm-train", *arguments])
        patch.setattr(signal, "signal", lambda *_: None)
        patch.setattr(gc, "disable", lambda: None)
        for name, value in settings.items():
            patch.setenv(f"LLM_TRAIN_{name}", value)
        try:
            main()
        except SystemExit as ended:
            if isinstance(ended.code, str):
                return Done(1, out.getvalue(), err.getvalue() + ended.code + "\n")
            return Done(int(ended.code or 0), out.getvalue(), err.getvalue())
    return Done(0, out.getvalue(), err.getvalue())


def demo_program(*arguments: str, steps: int) -> str:
    """Return a program that is `llm-train demo` whose runs train for so many steps."""
    return (
        "import sys\n"
        "from app.cli import demo, main\n"
        f"demo.HYPERPARAMS['steps'] = {steps}\n"
        f"sys.argv = {['llm-train', 'demo', *arguments]!r}\n"
        "main.main()\n"
    )
