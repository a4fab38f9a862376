"""`Client`: submit, find and compare runs from a script or a notebook.

    Client → experiments, runs (`Run` in runs.py), recipes

Everything goes over REST (`requests.py`). Answers are dictionaries as in the OpenAPI document.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from llm_train.requests import ApiError, Connection
from llm_train.runs import Run
from llm_train.tables import Comparison, Runs

_ALPHABET = frozenset("0123456789abcdefghjkmnpqrstvwxyz")
"""Of ids."""


class Client:
    """A service, as scripts and notebooks use it.

    Example:
        >>> client = Client()
        >>> run = client.submit("tiny-lm", recipe="demo", steps=40)
        >>> run.wait().status
        'succeeded'
        >>> child = run.resume(learning_rate=0.001, steps=60).wait()
        >>> child.parent_id == run.id
        True
    """

    def __init__(
        self, url: "str | None" = None, token: "str | None" = None, *, timeout: float = 30.0
    ) -> None:
        """Set the service; nothing is sent yet.

        Args:
            url: its address. Left out: LLM_TRAIN_API_URL, `llm-train login`, or this machine.
            token: the API token. Left out: LLM_TRAIN_API_TOKEN, or that of the login.
            timeout: seconds to wait for an answer.

        Raises:
            ValueError: the address is no URL of http or https.
        """
        self.connection = Connection(url, token, timeout=timeout)

    def __repr__(self) -> str:
        return f"Client({self.connection.url!r})"

    def submit(
        self,
        experiment: str,
        *,
        recipe: "str | None" = None,
        model: "str | None" = None,
        hyperparams: "dict[str, Any] | None" = None,
        dataset: "dict[str, Any] | None" = None,
        resources: "dict[str, Any] | None" = None,
        name: "str | None" = None,
        tags: Sequence[str] = (),
        notes: "str | None" = None,
        priority: str = "normal",
        **params: Any,
    ) -> "Run":
        """Submit a training run and return it.

        Args:
            experiment: an id, or a name: the newest experiment of that name, made if there is none.
            recipe: what the service executes; left out, a trainer attaches by itself.
            model: the model; left out: the recipe's name, or the experiment's.
            hyperparams: hyperparameters, where their names are no Python names.
            dataset: the data.
            resources: what the run needs, such as `{"gpu_type": "A100", "count": 2}`.
            name: name for people.
            tags: tags to find it by.
            notes: free text.
            priority: `high`, `normal` or `low`: its place in the queue.
            params: hyperparameters by name.

        Raises:
            ApiError: the service refused.

        Example:
            >>> Client().submit("tiny-lm", recipe="demo", steps=40, name="first").status
            'queued'
        """
        path = f"/v1/experiments/{self.experiment_id(experiment, create=True)}/runs"
        body = {
            "model": model or recipe or experiment, "recipe": recipe, "name": name,
            "hyperparams": {**(hyperparams or {}), **params}, "dataset": dataset or {},
            "resources": resources or {}, "tags": list(tags), "notes": notes, "priority": priority,
        }  # fmt: skip
        return Run(self.connection, self.connection.request("POST", path, body))

    def experiment_id(self, experiment: str, *, create: bool = False) -> str:
        """Return the id of an experiment.

        Args:
            experiment: an id, or the name of one; of several the newest is meant.
            create: make one of this name if there is none.

        Raises:
            ApiError: there is none, or the service refused.
        """
        if experiment.startswith("exp_") and len(experiment) == 30:
            return experiment
        for row in self.experiments(search=experiment):
            if row["name"] == experiment:
                return str(row["experiment_id"])
        if not create:
            raise ApiError(f"There is no experiment named {experiment!r}.", 404, "not_found")
        body = {"name": experiment, "task_type": "train"}
        return str(self.connection.request("POST", "/v1/experiments", body)["experiment_id"])

    def delete_experiment(self, experiment: str) -> "dict[str, Any]":
        """Delete an experiment for good, with all of its runs; return the record.

        Args:
            experiment: an id, or the name of one; of several the newest is meant.

        Raises:
            ApiError: a run has not ended, or a checkpoint is a release.
        """
        path = f"/v1/experiments/{self.experiment_id(experiment)}"
        deletion: dict[str, Any] = self.connection.request("DELETE", path)
        return deletion

    def experiments(self, *, limit: int = 100, **filters: Any) -> "list[dict[str, Any]]":
        """Return experiments, newest first.

        Args:
            limit: at most so many.
            filters: conditions as in the OpenAPI document, such as `owner` or `search`.
        """
        return list(self._rows("/v1/experiments", "experiments", limit, filters))

    def runs(self, experiment: "str | None" = None, *, limit: int = 100, **filters: Any) -> "Runs":
        """Return runs, newest first.

        Args:
            experiment: only those of this experiment (id or name).
            limit: at most so many.
            filters: conditions as in the OpenAPI document, such as `status`, `tags` or `search`.

        Example:
            >>> [run.status for run in Client().runs(status="failed", limit=5)]
            []
        """
        if experiment is not None:
            filters["experiment_id"] = self.experiment_id(experiment)
        return Runs(
            Run(self.connection, row) for row in self._rows("/v1/runs", "runs", limit, filters)
        )

    def _rows(self, path: str, name: str, limit: int, filters: "dict[str, Any]") -> Iterator[Any]:
        after = None
        while limit > 0:
            query = {**filters, "limit": min(limit, 500), "after": after}
            page = self.connection.request("GET", path, query=query)
            yield from page[name]
            limit -= len(page[name])
            after = page["next"]
            if after is None:
                return

    def run(self, run: str) -> "Run":
        """Return one run.

        Args:
            run: its id, the end of its id (four characters or more), `@last`, `@last:STATUS`, or
                its name.

        Raises:
            ApiError: there is none (404), or several could be meant (409).
        """
        matches = self._find(run)
        if not matches:
            raise ApiError(f"There is no run {run!r}.", 404, "not_found")
        if len(matches) > 1:
            ends = ", ".join(row["run_id"][-8:] for row in matches)
            raise ApiError(f"{run!r} may be several runs: {ends}; name one.", 409, "ambiguous")
        path = f"/v1/experiments/{matches[0]['experiment_id']}/runs/{matches[0]['run_id']}"
        return Run(self.connection, self.connection.request("GET", path))

    def _find(self, run: str) -> "list[Any]":
        def look(limit: int = 5, **filters: Any) -> "list[Any]":
            return list(self._rows("/v1/runs", "runs", limit, {"archived": "any", **filters}))

        if run == "@last" or run.startswith("@last:"):
            status = run.partition(":")[2]
            last = {"status": status, "archived": "false"} if status else {"archived": "false"}
            return look(1, **last)
        if run.startswith("run_") and len(run) == 30:
            return look(ids=run)
        end = run.removeprefix("run_")
        ends_an_id = 4 <= len(end) <= 26 and set(end) <= _ALPHABET
        if ends_an_id and (matches := look(id_ends=end)):
            return matches
        return look(name=run)

    def compare(self, *runs: "Run | str", everything: bool = False) -> "Comparison":
        """Return the parameters of runs side by side.

        Args:
            runs: the runs, or their ids or names.
            everything: include values that are the same in all of them.
        """
        ids = [run.id if isinstance(run, Run) else self.run(run).id for run in runs]
        query = {"run_ids": ids, "only_different": str(not everything).lower()}
        return Comparison(self.connection.request("GET", "/v1/runs/compare", query=query))

    def recipes(self) -> "list[dict[str, Any]]":
        """Return the recipes that a new run may name."""
        return list(self.connection.request("GET", "/v1/recipes")["recipes"])
