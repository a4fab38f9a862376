"""Paths of artifacts: `{experiment_id}/{owner_id}/{path}`, the owner being a run or a model."""

import re
from typing import NamedTuple

from app.domain.ids import is_id
from app.errors import InvalidInput, NotFound

MAX_PATH = 1_000
MAX_DEPTH = 24
_MODEL = re.compile(r"m-[0-9a-f]{32}")


class ArtifactPath(NamedTuple):
    """The path of an artifact; `parts` is empty for the folder of all artifacts of its owner."""

    experiment_id: str
    owner_id: str
    parts: tuple[str, ...]


def is_model(text: str) -> bool:
    """Return True if `text` has the shape of a logged model's id."""
    return _MODEL.fullmatch(text) is not None


def artifact_path(experiment_id: str, owner_id: str, path: str) -> ArtifactPath:
    """Return the path of an artifact. Raises NotFound for bad ids, InvalidInput for a bad path."""
    if not is_id(experiment_id, "exp") or not (is_id(owner_id, "run") or is_model(owner_id)):
        raise NotFound("There is no experiment, run or model of this id.")
    parts = tuple(path.strip("/").split("/")) if path.strip("/") else ()
    wrong = len(path) > MAX_PATH or len(parts) > MAX_DEPTH or not all(map(_is_name, parts))
    if wrong:
        raise InvalidInput(
            f"{path!r:.200} is no path of an artifact: use names of at most 255 bytes.",
            errors=[{"pointer": "/path", "detail": "not a path of an artifact"}],
        )
    return ArtifactPath(experiment_id, owner_id, parts)


def _is_name(part: str) -> bool:
    if part in ("", ".", "..") or not part.isprintable() or "\\" in part:
        return False
    return len(part.encode()) <= 255  # printable: no lone surrogate


def artifact_url(experiment_id: str, owner_id: str) -> str:
    """Return where the artifacts of a run or a model are downloaded, on this service."""
    return f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{artifact_root(experiment_id, owner_id)}"


def artifact_root(experiment_id: str, owner_id: str) -> str:
    """Return the path of an owner's artifacts as MLflow's clients build on it."""
    folder = f"models/{owner_id}" if is_model(owner_id) else owner_id
    return f"{experiment_id}/{folder}/artifacts"
