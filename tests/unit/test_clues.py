"""Why a trainer ended, from logs as launchers and libraries really write them."""

import pytest

from app.domain.clues import MOST_CHARACTERS, read_clues
from tests.support.logs import CRASH, DDP, FOOTER, PEER


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (CRASH, "ValueError: the loss is not finite at step 5"),
        (CRASH + PEER + FOOTER.format(code=1), "ValueError: the loss is not finite at step 5"),
        (CRASH + DDP * 2, "ValueError: the loss is not finite at step 5"),
        (CRASH.replace("[rank1]: ", ""), "ValueError: the loss is not finite at step 5"),
        (CRASH.replace("[rank1]: ", "1: "), "ValueError: the loss is not finite at step 5"),
        (
            "\r 50%|#####     | 5/10 [00:01<00:01]Traceback (most recent call last):\n"
            "  File 'a'\n\x1b[1;35mtorch.OutOfMemoryError\x1b[0m: CUDA out of memory.\nstep 6\n",
            "torch.OutOfMemoryError: CUDA out of memory.",
        ),
        (
            "Traceback (most recent call last):\nstep 7 loss 0.1\n  File 'a'\nstep 8\nmy.Stop\n",
            "my.Stop",
        ),
        (
            "Traceback (most recent call last):\n  File 'a'\nKeyError: 'x'\n\nDuring handling of"
            " the above exception, another exception occurred:\n\nTraceback (most recent call"
            " last):\n  File 'b'\nRuntimeError: no such column\n",
            "RuntimeError: no such column",
        ),
        ("usage: train.py [-h]\ntrain.py: error: unrecognized arguments: --lr\n",
         "train.py: error: unrecognized arguments: --lr"),
        ("terminate called after throwing an instance of 'c10::Error'\n"
         "  what(): invalid device\n", "what(): invalid device"),
        ("step 1\nstep 2\n", ""),
    ],
)  # fmt: skip
def test_the_last_error_of_any_rank_is_found_before_what_launchers_add(
    log: str, error: str
) -> None:
    assert read_clues(log).error == error


def test_an_error_that_follows_from_a_peers_end_counts_only_where_there_is_no_other() -> None:
    alone = read_clues(PEER + FOOTER.format(code=-9))
    assert alone.error == "" and "Connection closed by peer" in alone.follow_up
    assert read_clues(CRASH + PEER).follow_up == ""


@pytest.mark.parametrize(
    ("log", "number"),
    [
        (PEER + FOOTER.format(code=-9), 9),
        (CRASH + PEER + FOOTER.format(code=1), None),
        ("RuntimeError: DataLoader worker (pid 5) is killed by signal: Killed.\n", 9),
        ("torch.multiprocessing.spawn.ProcessExitedException: process 1 terminated with signal"
         " SIGKILL\n", 9),
        ("subprocess.CalledProcessError: Command 'x' died with <Signals.SIGSEGV: 11>.\n", 11),
        ("[2026-11-26] [ERROR] [launch.py:325:sigkill_handler] ['python'] exits with return code"
         " = -9\n", 9),
        ("run.sh: line 3:   812 Killed                  python train.py\n", 9),
        ("died with <Signals.SIGNONE: 1000>\nstep 3\n", None),
        ("step 3\n", None),
    ],
)  # fmt: skip
def test_a_launcher_tells_which_signal_ended_its_process(log: str, number: int | None) -> None:
    assert read_clues(log).child_signal == number


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("loading\n  \nstep 9 \x07done\n\n", "step 9  done"),
        ("\x1b[32mall is well\x1b[0m\n====\n", "all is well"),
        ("\r10%|#         | 1/10\r20%|##        | 2/10 [00:01<00:08]\n", ""),
        ("reading\n\r20%|##        | 2/10 [00:01<00:08]", "reading"),
        ("first\rsecond\r\n", "second"),
        ("no data\n" + DDP, "no data"),
        ("x" * 1000, "x" * (MOST_CHARACTERS - 1) + "…"),
        ("=====\n", "====="),
        ("", ""),
    ],
)
def test_last_words_are_what_a_person_would_read(log: str, words: str) -> None:
    assert read_clues(log).last_line == words


@pytest.mark.parametrize(
    ("line", "noted"),
    [
        ("[rank: 0] Received SIGTERM: 15", True),
        ("SIGTERM received, will request JIT checkpoint after 3s", True),
        ("W api.py:753] Received 15 death signal, shutting down workers", False),
        ("caught signal 15; saving", True),
        ("SIGTERM handler installed", False),
    ],
)
def test_a_trainer_that_writes_of_a_signal_was_asked_to_stop(line: str, noted: bool) -> None:
    assert read_clues(line).signal_noted is noted


def test_a_launcher_that_lost_patience_with_its_workers_says_so() -> None:
    line = (
        "W1126 15:20:10.616000 22388 torch/distributed/elastic/multiprocessing/api.py:1047] "
        "Unable to shutdown process 22462 via 15, forcefully exiting via 9\n"
    )
    assert read_clues(line).workers_killed and not read_clues(CRASH).workers_killed


@pytest.mark.parametrize(
    ("log", "number"),
    [
        (
            "torch.distributed.elastic.multiprocessing.api.SignalException: "
            "Process 17934 got signal: 15\n",
            15,
        ),
        (CRASH, None),
    ],
)
def test_a_launcher_that_was_stopped_says_by_what(log: str, number: int | None) -> None:
    assert read_clues(log).launcher_signal == number


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", True),
        ("torch.cuda.OutOfMemoryError: CUDA out of memory.", True),
        ("MemoryError", True),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 8 GiB", True),
        ("ValueError: OutOfMemoryError", False),
    ],
)
def test_an_allocation_that_failed_is_a_lack_of_memory(error: str, is_memory: bool) -> None:
    log = f"Traceback (most recent call last):\n  File 'a'\n{error}\n"
    assert read_clues(log).memory_error is is_memory


def test_a_worker_that_is_gone_is_no_cause_of_its_own() -> None:
    log = "RuntimeError: DataLoader worker (pid(s) 41, 42) exited unexpectedly\n"
    clues = read_clues(log)
    assert clues.error == "" and "exited unexpectedly" in clues.follow_up


def test_a_hostile_log_is_read_in_a_moment() -> None:
    """64 KiB of anything: no expression may backtrack for ever."""
    for piece in ("\x1b[", "\x1b]", "%|", "received ", "a.", "[rank1]: ", "exitcode ", "- ", "\r"):
        read_clues(piece * (65_536 // len(piece)))


def test_what_srun_writes_of_the_other_tasks_is_no_cause() -> None:
    log = "\n".join(
        [
            "2: ValueError: rank 2 cannot go on",
            "slurmstepd-n1: error: *** STEP 2.0 ON n1 CANCELLED AT 2026-11-26T20:06:20 ***",
            "srun: error: n3: task 2: Exited with exit code 3",
            "srun: error: n1-n2: tasks 0-1: Terminated",
        ]
    )
    assert read_clues(log).error == "ValueError: rank 2 cannot go on"
