"""Logs of failures as launchers and libraries really write them."""

CRASH = """\
[rank1]: Traceback (most recent call last):
[rank1]:   File "/srv/train.py", line 7, in <module>
[rank1]:     raise ValueError("the loss is not finite at step 5")
[rank1]:     ^^^^^^^^^^^^^^^^
[rank1]: ValueError: the loss is not finite at step 5
"""
PEER = """\
[rank0]: Traceback (most recent call last):
[rank0]:   File "/srv/train.py", line 18, in <module>
[rank0]:     work.wait()
[rank0]: RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:28800.
"""
FOOTER = """\
W1126 15:20:21.793000 22829 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process \
22833 closing signal SIGTERM
E1126 15:20:21.829000 22829 torch/distributed/elastic/multiprocessing/api.py:1002] failed \
(exitcode: {code}) local_rank: 1 (pid: 22834) of binary: /usr/bin/python3
Traceback (most recent call last):
  File "/usr/bin/torchrun", line 8, in <module>
    sys.exit(main())
             ^^^^^^
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
w.py FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-26_15:20:21
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 22833)  (SIGTERM)
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 22833
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-26_15:20:21
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : {code} (pid: 22834)
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================
"""
"""As torchrun 2.13 writes it."""
DDP = (
    "[rank0]:[W1126 15:20:21.7 ProcessGroupNCCL.cpp:1524] Warning: WARNING: "
    "destroy_process_group() was not called before program exit (function operator())\n"
)
