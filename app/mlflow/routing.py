"""Routes whose errors have MLflow's form: `{"error_code": …, "message": …}`."""

from fastapi import APIRouter, Response

from app.errors import InvalidInput, NameTaken, ServiceError
from app.server import tracking

API = "/mlflow/api/2.0/mlflow"
ARTIFACTS = "/mlflow/api/2.0/mlflow-artifacts/artifacts"

_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "INVALID_STATE",
    413: "INVALID_PARAMETER_VALUE",
    415: "BAD_REQUEST",
    429: "REQUEST_LIMIT_EXCEEDED",
    503: "TEMPORARILY_UNAVAILABLE",
}


def router() -> APIRouter:
    """Return a router for the endpoints of one resource."""
    return tracking.make_router(error_response)


def error_response(error: ServiceError) -> Response:
    """Return an error in MLflow's form; its clients decide by `error_code`."""
    status, code = error.status, _CODES.get(error.status, "INTERNAL_ERROR")
    if isinstance(error, InvalidInput):
        status, code = 400, "INVALID_PARAMETER_VALUE"
    elif isinstance(error, NameTaken):
        status, code = 400, "RESOURCE_ALREADY_EXISTS"
    return tracking.refusal(error, status, {"error_code": code, "message": error.detail})
