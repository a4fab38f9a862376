"""A Slurm with accounting: slurmdbd on a MariaDB, both on 127.0.0.1, beside tests.support.slurm.

Its controller forgets a job soon after its end, so that only the accounting knows of it. Needs the
packages slurmdbd and mariadb-server-core as well.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.server import wait_until
from tests.support.slurm import SlurmCluster, free_ports

_DBD = """\
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=root
StorageLoc=accounting
LogFile={root}/slurmdbd.log
PidFile={root}/slurmdbd.pid
"""


class AccountedSlurm(SlurmCluster):
    """A cluster whose jobs are in sacct, and in squeue for seconds after their end."""

    def start(self) -> None:
        self._write()
        port, database = free_ports(2)
        self._configure(port)
        dbd = self.root / "slurmdbd.conf"
        dbd.write_text(_DBD.format(root=self.root, port=port, database=database))
        dbd.chmod(0o600)
        self._start_munge()
        self._start_database(database)
        self._spawn("slurmdbd", "slurmdbd", "-D")
        wait_until(lambda: self._is_registered(), self.logs, every=0.5)
        self.start_controller("-c")
        for name in self.names:
            self.start_node(name)
        self.wait_ready()

    def _configure(self, port: int) -> None:
        file = self.root / "slurm.conf"
        lines = (
            f"accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
            f"AccountingStoragePort={port}\n"
            f"AccountingStoragePass={self.root}/munge.sock\nMinJobAge=2"
        )
        text = file.read_text().replace("accounting_storage/none", lines)
        file.write_text(text)

    def _start_database(self, port: int) -> None:
        data = self.root / "mariadb"
        data.mkdir()  # empty: without grants it needs no tables of its own
        self._spawn(
            "mariadbd", "mariadbd", "--no-defaults", "--user=root", f"--datadir={data}",
            "--bind-address=127.0.0.1", f"--port={port}", f"--socket={self.root}/mariadb.sock",
            "--skip-grant-tables", f"--pid-file={self.root}/mariadb.pid",
            "--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0",
        )  # fmt: skip
        wait_until((self.root / "mariadb.pid").exists, self.logs)

    def _is_registered(self) -> bool:
        self.run("sacctmgr", "--immediate", "add", "cluster", "lab", check=False)
        listed = ("sacctmgr", "--noheader", "--parsable2", "list", "cluster", "format=cluster")
        return "lab" in self.run(*listed, check=False)

    def stop(self) -> None:
        super().stop()
        for name in ("slurmdbd", "mariadbd"):
            if self.is_up(name):
                self.kill(name)


@contextmanager
def accounted_slurm(root: Path, nodes: int) -> Iterator[SlurmCluster]:
    """A cluster that is ready; nothing of it is left afterwards."""
    cluster = AccountedSlurm(root, nodes)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
