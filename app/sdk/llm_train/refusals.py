"""Posts batches of which the service may refuse a part: the rest of them is taken."""

import json
from typing import Any

from llm_train import splitting
from llm_train.buffer import warn
from llm_train.connection import ApiConnection, Response

REFUSALS_PER_BATCH = 64


class BatchPoster:
    """Posts batches of one reporter, and drops what is refused of them, with one warning each."""

    def __init__(self, connection: ApiConnection) -> None:
        """Post over this connection."""
        self._connection = connection
        self._warned = set[str]()
        self._refusals = 0  # in the batch that is posted now
        self._too_many = set[str]()  # metrics that are more than the run may have

    def post(self, line: bytes) -> Response:
        """Post one batch; if it is refused for its content, post the rest of it.

        A batch that is never accepted would block the later ones, heartbeats too, and end a
        healthy training.
        """
        if self._too_many:
            body = json.loads(line)
            for key in self._too_many & body.get("metrics", {}).keys():
                del body["metrics"][key]
            line = json.dumps(body).encode()
        response = self._connection.post(line)
        if response.refuses_batch or response.too_large:
            self._refusals = 0
            response = self._post_in_parts(json.loads(line), response)
        return response

    def _post_in_parts(self, body: dict[str, Any], response: Response) -> Response:
        """Post a report in halves, down to the items that the service refuses, and drop these.

        Items that only a proxy refuses are never dropped.
        """
        self._refusals += response.refuses_batch
        halves = splitting.split(body) if self._refusals <= REFUSALS_PER_BATCH else None
        if halves is None and not response.refuses_batch:
            return response
        rest = splitting.rest_of(body)
        if halves is None:
            self._drop(body, response)
            if rest is None or rest == body:
                return Response(200, {})
        for half in halves or filter(None, (rest,)):
            response = self._connection.post(json.dumps(half).encode())
            if response.refuses_batch or response.too_large:
                response = self._post_in_parts(half, response)
            if not response.delivered:
                break
        return response

    def _drop(self, body: dict[str, Any], response: Response) -> None:
        """Warn once about an item that the service refuses."""
        if response.code == "run_limit" and len(body.get("metrics", {})) == 1:
            self._too_many |= body["metrics"].keys()
        name = splitting.name_of(body)
        anonymous = splitting.rest_of(body) == body  # the rest of one of which was told
        if name in self._warned or (anonymous and self._warned) or len(self._warned) >= 20:
            return
        self._warned.add(name)
        warn(f"the service refused {name} ({response.reason}); what it refuses is dropped")
