"""A real OpenStack Swift with its S3 API on 127.0.0.1: one disk, one replica, four processes.

It is installed apart, since it holds other packages to older versions:

    python3 -m venv .cache/swift && .cache/swift/bin/pip install 'swift>=2.38' setuptools
"""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.ministack import connects, make_bucket
from tests.support.server import REPOSITORY, free_port, wait_until

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test:tester",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-service",
    "AWS_REGION": "us-east-1",
}
_BIN = REPOSITORY / ".cache/swift/bin"
_COMMON = """\
[DEFAULT]
swift_dir = {root}/etc
devices = {root}/disks
mount_check = false
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = root
log_level = WARNING
disable_fallocate = true
fallocate_reserve = 0
"""
_PROXY = """
[pipeline:main]
pipeline = catch_errors listing_formats bulk s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
"""
_FILTERS = ("catch_errors", "listing_formats", "bulk", "slo", "dlo")
_SERVER = (
    "\n[pipeline:main]\npipeline = {kind}-server\n[app:{kind}-server]\nuse = egg:swift#{kind}\n"
)
_RINGS = """
import sys
from swift.common.ring import RingBuilder
for kind, port in zip(sys.argv[2::2], sys.argv[3::2]):
    builder = RingBuilder(6, 1, 1)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "d1",
                     "weight": 1.0})
    builder.rebalance()
    builder.get_ring().save(f"{sys.argv[1]}/{kind}.ring.gz")
"""
"""As nine calls of swift-ring-builder, each of which imports Swift."""
_HASHES = """\
[swift-hash]
swift_hash_path_prefix = lab
swift_hash_path_suffix = lab
[storage-policy:0]
name = one
default = yes
"""


@contextmanager
def swift(root: Path) -> Iterator[str]:
    """Serve S3 with the bucket `checkpoints`; yield the URL. Credentials are in the environment."""
    ports = {kind: free_port() for kind in ("account", "container", "object", "proxy")}
    _write(root, ports)
    with ExitStack() as processes:
        for kind in ports:
            log = processes.enter_context((root / f"{kind}.log").open("wb"))
            process = subprocess.Popen(
                [_BIN / f"swift-{kind}-server", root / f"etc/{kind}-server.conf"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
            processes.callback(process.wait, 20)
            processes.callback(process.terminate)
        wait_until(lambda: all(map(connects, ports.values())), lambda: logs(root))
        make_bucket(url := f"http://127.0.0.1:{ports['proxy']}", CREDENTIALS)
        yield url


def _write(root: Path, ports: dict[str, int]) -> None:
    for name in ("etc", "disks/d1"):
        (root / name).mkdir(parents=True)
    (root / "etc/swift.conf").write_text(_HASHES)
    for kind, port in ports.items():
        lines = _COMMON.format(root=root, port=port)
        if kind == "proxy":
            lines += _PROXY.format(secret=CREDENTIALS["AWS_SECRET_ACCESS_KEY"])
            lines += "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in _FILTERS)
        else:
            lines += _SERVER.format(kind=kind)
        (root / f"etc/{kind}-server.conf").write_text(lines)
    rings = [text for kind in ports if kind != "proxy" for text in (kind, str(ports[kind]))]
    command = [str(_BIN / "python"), "-c", _RINGS, str(root / "etc"), *rings]
    subprocess.run(command, check=True, capture_output=True)


def logs(root: Path) -> str:
    """The end of every log, for a failed assertion."""
    files = sorted(root.glob("*.log"))
    return "\n".join(f"--- {f.name}\n{f.read_text(errors='replace')[-2000:]}" for f in files)
