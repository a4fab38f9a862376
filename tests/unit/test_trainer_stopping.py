"""A signal stops a training loop at its next step, and everything else as it always did."""

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest
from llm_train import Reporter

from tests.support.reports import ReportServer, start

pytestmark = pytest.mark.usefixtures("environment")

PREPARES = """
    import signal, time
    from llm_train import Reporter
    reporter = Reporter.from_env()
    reporter.effective(learning_rate=0.1)
    {installed}
    print("preparing data", flush=True)
    for _ in range(600):  # a handler of Python's waits for a call that the signal came just before
        time.sleep(0.1)
"""


def end_while_preparing(server: ReportServer, number: int, installed: str = "") -> tuple[int, str]:
    script = PREPARES.format(installed=installed)
    with start(script, server, None, LLM_TRAIN_ATTEMPT="1") as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "preparing data\n"
            process.send_signal(number)
            out, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            return 0, "went on"
        finally:
            process.kill()
    return process.returncode, out


def test_a_trainer_that_still_prepares_its_data_is_ended_by_a_term(server: ReportServer) -> None:
    """Its loop has never asked whether to stop, so nobody would act on a stop that is put off."""
    code, _ = end_while_preparing(server, signal.SIGTERM)
    assert code == -signal.SIGTERM


def test_until_the_loop_begins_the_scripts_own_handler_decides(server: ReportServer) -> None:
    own = (
        "reporter.close(); signal.signal(signal.SIGTERM, lambda *_: exit(7));"
        "reporter = Reporter.from_env()"
    )
    assert end_while_preparing(server, signal.SIGTERM, own)[0] == 7


def test_a_ctrl_c_while_data_is_prepared_interrupts(server: ReportServer) -> None:
    with Reporter.from_env(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_no_handler_delays_a_signal_before_the_loop(server: ReportServer) -> None:
    """Python's handlers wait for the end of a call that the signal came just before."""
    with Reporter.from_env() as training:
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        training.log(1)
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_loop_in_another_thread_is_stopped_if_the_main_one_listens(server: ReportServer) -> None:
    with Reporter.from_env() as training, ThreadPoolExecutor(1) as loop:
        training.listen()
        loop.submit(training.log, 1).result()
        os.kill(os.getpid(), signal.SIGTERM)
        assert training.should_stop


@pytest.mark.parametrize("ask", ["should_stop", "log", "checkpoint"])
def test_from_its_first_word_on_a_loop_is_stopped_between_steps(
    server: ReportServer, ask: str, tmp_path: object
) -> None:
    with Reporter.from_env() as training:
        if ask == "should_stop":
            assert not training.should_stop
        elif ask == "log":
            training.log(0)
        else:
            with training.checkpoint(0) as directory:
                (directory / "state").touch()
        os.kill(os.getpid(), signal.SIGTERM)
        assert training.should_stop


def test_a_signal_that_was_ignored_before_the_loop_stays_ignored(server: ReportServer) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # by nohup, say
    with Reporter.from_env():
        os.kill(os.getpid(), signal.SIGINT)


def test_listening_twice_does_not_recurse(server: ReportServer) -> None:
    with Reporter.from_env() as training:
        training.log(1)
        training.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        assert training.should_stop
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_framework_that_passes_signals_on_to_us_may_stand_between_us_and_us(
    server: ReportServer,
) -> None:
    """Lightning keeps the handler that it finds and calls it; we are asked to listen again."""
    with Reporter.from_env() as training:
        training.log(1)
        ours, heard = signal.getsignal(signal.SIGTERM), []

        def composed(number: int, frame: FrameType | None) -> None:
            heard.append(number)
            assert callable(ours)
            ours(number, frame)

        signal.signal(signal.SIGTERM, composed)
        training.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
        assert training.should_stop
    assert signal.getsignal(signal.SIGTERM) is composed
    os.kill(os.getpid(), signal.SIGTERM)  # of a closed reporter that a framework still calls
    assert heard == [signal.SIGTERM] * 2


def test_a_framework_that_took_the_signal_is_joined_again(server: ReportServer) -> None:
    """Hugging Face's just-in-time checkpoint takes SIGTERM and passes it on to nobody."""
    heard: list[int] = []
    with Reporter.from_env() as training:
        training.log(1)
        signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
        training.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        assert training.should_stop
    assert heard == [signal.SIGTERM]
