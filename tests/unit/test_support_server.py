"""The server fixture keeps its own promises: it waits, it cleans up, it tells what went wrong."""

import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.support import clock
from tests.support.server import alive, end_trainers, running_server, wait_until

SERVE = """
import http.server, os, subprocess, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(os.environ["LLM_TRAIN_RECIPES"].encode())
if "leave" in sys.argv:
    subprocess.Popen(["sleep", "600"])
if "train" in sys.argv:
    run = {"LLM_TRAIN_RUN_DIR": os.environ["LLM_TRAIN_DATA_DIR"] + "/runs/run_1"}
    trainer = subprocess.Popen(["sleep", "600"], env=run, start_new_session=True)
    print(trainer.pid)
address = os.environ["LLM_TRAIN_HOST"], int(os.environ["LLM_TRAIN_PORT"])
http.server.HTTPServer(address, Handler).serve_forever()
"""


def command(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", SERVE, *arguments)


def test_yields_a_ready_server_with_its_settings_and_ends_it(tmp_path: Path) -> None:
    with running_server(tmp_path, command=command(), RECIPES="mine.toml") as server:
        with urllib.request.urlopen(server.url) as response:
            assert response.read() == b"mine.toml"
        assert psutil.pid_exists(server.pid)
    assert not psutil.pid_exists(server.pid)


def test_a_server_that_ends_at_start_is_reported_with_its_log(tmp_path: Path) -> None:
    crash = (sys.executable, "-c", "raise SystemExit('no such recipe')")
    with (
        pytest.raises(AssertionError, match=r"ended with 1\nno such recipe"),
        running_server(tmp_path, command=crash),
    ):
        pass


def test_a_process_left_in_the_servers_group_fails_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.server.LEFT_SECONDS", 1.0)
    with (
        pytest.raises(AssertionError, match=r"leaves no process behind: .*sleep") as caught,
        running_server(tmp_path, command=command("leave")),
    ):
        pass
    leftover = re.search(r"(\d+) sleep 600", str(caught.value))
    assert leftover
    psutil.Process(int(leftover[1])).kill()


@pytest.mark.parametrize("keep", [True, False])
def test_a_trainer_outlives_the_server_only_where_the_test_says_so(
    tmp_path: Path, keep: bool
) -> None:
    with running_server(tmp_path, command=command("train"), keep_trainers=keep) as server:
        trainer = psutil.Process(int(server.log.read_text().split()[0]))
    assert alive(trainer) == keep
    end_trainers(server.data_dir)
    assert not alive(trainer)


def test_a_process_lives_until_the_last_of_its_threads_has_ended() -> None:
    first_ends = (
        "import ctypes, threading\n"
        "threading.Thread(target=input).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    with subprocess.Popen([sys.executable, "-c", first_ends], stdin=subprocess.PIPE) as process:
        ended = psutil.Process(process.pid)
        wait_until(lambda: ended.status() == psutil.STATUS_ZOMBIE, "its first thread has ended")
        assert alive(process.pid)
        process.kill()
        wait_until(lambda: not alive(process.pid), "its end, though nobody has waited for it")


def test_a_wait_that_runs_out_says_what_it_waited_for() -> None:
    with pytest.raises(AssertionError, match=r"after 0\.05 s still not: the run ends"):
        wait_until(lambda: False, "the run ends", 0.05)


def test_what_is_promised_soon_is_late_by_as_much_as_the_machine_is_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert clock.slowness() >= 1
    monkeypatch.setattr(clock, "slowness", lambda: 4.0)
    assert clock.is_soon(1.9, 2) and clock.is_soon(7.9, 2) and not clock.is_soon(8.1, 2)
    monkeypatch.setattr(clock, "slowness", lambda: 1.0)
    assert not clock.is_soon(2.1, 2), "an idle machine has no excuse"
