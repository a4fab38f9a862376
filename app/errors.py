"""The error tree: a class carries its HTTP status and its stable code.

ServiceError
├── InvalidInput        422 invalid_input        a field is wrong; `errors` says which
│   ├── BadCheckpointPath 422 bad_checkpoint_path  outside the run's own prefix
│   ├── UnknownRecipe     422 unknown_recipe       the operator configured no such recipe
│   ├── RunLimit          422 run_limit            a run's trainers have reported as much as one may
│   └── KeyReused         422 idempotency_key_reused
├── MalformedBody       400 malformed_body       not JSON, not UTF-8, too deep
├── Unauthorized        401 unauthorized
├── Forbidden           403 forbidden
│   └── NotPermitted      403 not_permitted        the role, or the token's scope, is too low
├── NotFound            404 not_found
├── LogRemoved          410 log_removed          by retention; the run says when
├── MethodNotAllowed    405 method_not_allowed
├── Conflict            409 conflict
│   ├── RunFinished       409 run_finished
│   ├── StaleAttempt      409 stale_attempt
│   ├── AttemptClaimed    409 attempt_claimed      another agent has it
│   ├── LogOffset         409 log_offset           `offset` says where the output goes on
│   ├── CheckpointLost    409 checkpoint_lost
│   ├── ReleaseTagTaken   409 release_tag_taken
│   ├── ReleaseGate       409 release_gate         `unmet` lists what it does not meet
│   ├── StillNeeded       409 still_needed         cannot be deleted; `needed_for` says why
│   ├── NameTaken         409 name_taken           an experiment of a tracking client
│   └── KeyInFlight       409 idempotency_key_in_flight
├── RequestTimeout      408 request_timeout      the client took too long to send it
├── BodyTooLarge        413 body_too_large
├── UnsupportedMediaType 415 unsupported_media_type
├── HeadTooLarge        431 head_too_large       the request line and its headers
├── Busy                429 busy                 queue full; `retry_after` seconds
│   ├── SessionActive     429 session_active       another trainer reports on the run
│   └── TooManyWrongTokens 429 too_many_wrong_tokens of one address within a minute
├── Timeout             503 timeout              given up; it took too long
└── Unavailable         503 unavailable
    └── CheckpointUnreadable 503 checkpoint_unreadable
"""

from typing import Any, ClassVar


class ServiceError(Exception):
    """Something the caller can understand and act on. Nothing has changed when it is raised."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        errors: list[dict[str, str]] | None = None,
        retry_after: int | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []
        self.retry_after = retry_after
        self.extra = extra


class InvalidInput(ServiceError):
    """A field is missing, unknown, of the wrong type or out of range."""

    status, code, title = 422, "invalid_input", "Invalid input"


class BadCheckpointPath(InvalidInput):
    """A checkpoint path is outside what this run may name."""

    code, title = "bad_checkpoint_path", "Bad checkpoint path"


class UnknownRecipe(InvalidInput):
    """The operator configured no recipe of this name."""

    code, title = "unknown_recipe", "Unknown recipe"


class RunLimit(InvalidInput):
    """The trainers of a run have reported as much of one kind as a run may hold."""

    code, title = "run_limit", "Run limit"


class KeyReused(InvalidInput):
    """The same Idempotency-Key came with another body."""

    code, title = "idempotency_key_reused", "Idempotency-Key reused"


class MalformedBody(ServiceError):
    """The body is not JSON that this service reads."""

    status, code, title = 400, "malformed_body", "Malformed body"


class Unauthorized(ServiceError):
    """No token, or one that is not right."""

    status, code, title = 401, "unauthorized", "Unauthorized"


class Forbidden(ServiceError):
    """The Host or Origin is not allowed here, or the token may not do this."""

    status, code, title = 403, "forbidden", "Forbidden"


class NotPermitted(Forbidden):
    """The principal sees what this is about, and lacks the permission for it."""

    code, title = "not_permitted", "Not permitted"


class NotFound(ServiceError):
    """No such experiment, run, checkpoint or path."""

    status, code, title = 404, "not_found", "Not found"


class LogRemoved(ServiceError):
    """Retention has removed the log of this run."""

    status, code, title = 410, "log_removed", "Log removed"


class MethodNotAllowed(ServiceError):
    """The path exists, and does not know this method."""

    status, code, title = 405, "method_not_allowed", "Method not allowed"


class Conflict(ServiceError):
    """The request is well formed, and the present state does not allow it."""

    status, code, title = 409, "conflict", "Conflict"


class RunFinished(Conflict):
    """The run has ended; terminal states never change."""

    code, title = "run_finished", "Run finished"


class StaleAttempt(Conflict):
    """A report of an older attempt of a run; it changed nothing."""

    code, title = "stale_attempt", "Stale attempt"


class AttemptClaimed(Conflict):
    """Another agent has claimed the attempt."""

    code, title = "attempt_claimed", "Attempt claimed"


class LogOffset(Conflict):
    """The output that was sent does not begin where the service's ends; `offset` says where."""

    code, title = "log_offset", "Log offset"


class CheckpointLost(Conflict):
    """The checkpoint is known to be missing or corrupt; the ready ones are listed."""

    code, title = "checkpoint_lost", "Checkpoint lost"


class ReleaseTagTaken(Conflict):
    """Another checkpoint of the experiment holds this release tag."""

    code, title = "release_tag_taken", "Release tag taken"


class ReleaseGate(Conflict):
    """A checkpoint does not meet what a release must: `unmet` lists it."""

    code, title = "release_gate", "Release gate"


class StillNeeded(Conflict):
    """It cannot be deleted: `needed_for` is why, `needed_by` lists runs or checkpoints."""

    code, title = "still_needed", "Still needed"


class NameTaken(Conflict):
    """A tracking client creates an experiment under a name that one has."""

    code, title = "name_taken", "Name taken"


class KeyInFlight(Conflict):
    """A request with the same Idempotency-Key is being worked on."""

    code, title = "idempotency_key_in_flight", "Idempotency-Key in flight"


class RequestTimeout(ServiceError):
    """The client took too long to send its request."""

    status, code, title = 408, "request_timeout", "Request timeout"


class BodyTooLarge(ServiceError):
    """The body is larger than this service reads."""

    status, code, title = 413, "body_too_large", "Body too large"


class UnsupportedMediaType(ServiceError):
    """The body's Content-Type is not JSON."""

    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class HeadTooLarge(ServiceError):
    """The request line and the headers are larger than this service reads."""

    status, code, title = 431, "head_too_large", "Head too large"


class Busy(ServiceError):
    """Too much is waiting; try again after `retry_after` seconds. Nothing was done."""

    status, code, title = 429, "busy", "Busy"


class SessionActive(Busy):
    """Another session reports on this run: try again once it is silent, or take over."""

    code, title = "session_active", "Session active"


class TooManyWrongTokens(Busy):
    """An address sent too many wrong tokens within a minute; a right one is still accepted."""

    code, title = "too_many_wrong_tokens", "Too many wrong tokens"


class Timeout(ServiceError):
    """The operation was given up; of a mutation, what was under way may be done all the same."""

    status, code, title = 503, "timeout", "Timeout"


class Unavailable(ServiceError):
    """The service cannot answer now (starting, stopping, database away)."""

    status, code, title = 503, "unavailable", "Unavailable"


class CheckpointUnreadable(Unavailable):
    """A file cannot be read now, for a reason that says nothing about what is in it."""

    code, title = "checkpoint_unreadable", "Checkpoint unreadable"
