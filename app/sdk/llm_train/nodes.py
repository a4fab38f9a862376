"""Metrics of the machines that rank 0 is not on, as `system/rank8@HOST/…`.

One process on each reports: the first of that machine. The service records the values at the run's
current step; such a report is no heartbeat of the trainer.
"""

import json
import socket
import time
from contextlib import suppress
from pathlib import Path

from llm_train.connection import ApiConnection
from llm_train.ranks import get_node_rank
from llm_train.system import PREFIX, SystemMetrics

MAX_HOST = 64


class NodeMetrics:
    """Posts the metrics of this machine. What cannot be sent is dropped."""

    def __init__(
        self, connection: ApiConnection, rank: int, attempt: int | None, address: Path | None
    ) -> None:
        """Send nothing yet.

        Args:
            connection: to the run's reports.
            rank: of this process.
            attempt: of a trainer that the service launched.
            address: a file with the service's URL, read again when it does not respond.
        """
        self._connection, self._address = connection, address
        self._head = {"rank": rank} if attempt is None else {"rank": rank, "attempt": attempt}
        host = "".join(filter(str.isprintable, socket.gethostname()))[:MAX_HOST]
        self._prefix = f"{PREFIX}rank{rank}@{host.replace('/', '_')}/"

    def post(self, values: dict[str, float]) -> None:
        """Post values by name. Raises StopIteration once the service refuses them for good."""
        now = time.time()
        metrics = {
            self._prefix + key.removeprefix(PREFIX): {
                "steps": [0], "values": [value], "wall_times": [now],
            }
            for key, value in values.items()
        }  # fmt: skip
        response = self._connection.post(json.dumps({**self._head, "metrics": metrics}).encode())
        if not response.status and self._address:
            with suppress(OSError, ValueError):
                self._connection.set_url(self._address.read_text())
        elif not response.delivered and not response.is_retryable:
            raise StopIteration


def start_node_metrics(
    connection: ApiConnection, attempt: int | None, address: Path | None, seconds: float
) -> SystemMetrics | None:
    """Start to report the metrics of this machine, if this process is the one that does."""
    rank = get_node_rank()
    if rank is None:
        return None
    node = NodeMetrics(connection, rank, attempt, address)
    metrics = SystemMetrics(node.post, seconds, connection.close)
    metrics.start()
    return metrics
