"""`/v1/projects`: projects, what their rules would remove, and their members."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from app.db.sql import load
from app.db.tables import Project
from app.domain.ids import PATTERN
from app.domain.team import (
    Days,
    MemberRequest,
    ProjectRequest,
    ProjectUpdate,
    RetentionChange,
)
from app.rest import responses, schemas
from app.rest.body import read
from app.rest.parameters import DocumentedRoute, Parameters, accepts_json
from app.rest.problems import describe_errors
from app.services import expiry_preview, projects, quotas
from app.services.expiry import Part, Rule
from app.services.expiry_preview import Removable
from app.services.projects import Member

router = APIRouter(prefix="/v1/projects", tags=["team"], route_class=DocumentedRoute)

PROJECT_ID = "prj_0cc4q1zt8b3k5m7p9s1v3x5z7a"
USER_ID = "usr_0cc4q1zt8b3k5m7p9s1v3x5z7a"
ProjectId = Annotated[str, Path(pattern=PATTERN.format("prj"), examples=[PROJECT_ID])]
UserId = Annotated[str, Path(pattern=PATTERN.format("usr"), examples=[USER_ID])]


class ProjectAnswer(TypedDict):
    """A project: what a team shares."""

    project_id: str
    name: str
    description: str | None
    created_at: schemas.Time
    max_runs: Annotated[
        int | None, Field(description="Runs that may be under way at a time; null: any number.")
    ]
    max_gpus: Annotated[
        int | None, Field(description="GPUs that its runs may hold together; null: all.")
    ]
    max_bytes: Annotated[
        int | None,
        Field(description="Once its checkpoints take so many bytes, no further run starts."),
    ]
    logs_days: Annotated[
        float | None,
        Field(description="Days after a run's end for which its log is kept; null: the service's."),
    ]
    points_days: Annotated[
        float | None, Field(description="The same of all of its points, which are thinned then.")
    ]
    curves_days: Annotated[
        float | None,
        Field(description="The same of any points: then the latest values alone are kept."),
    ]
    release_metrics: Annotated[
        list[str] | None,
        Field(description="Bounds that its releases must meet, besides those of the service."),
    ]
    release_verified_hours: Annotated[
        float | None, Field(description="The longest time since a release was found to be whole.")
    ]
    release_approval: Annotated[
        bool | None, Field(description="True if another maintainer must have approved a release.")
    ]


class ProjectsAnswer(TypedDict):
    """The projects that the caller sees."""

    projects: list[ProjectAnswer]


class ProjectUseAnswer(TypedDict):
    """A project's use of its quotas."""

    project_id: str
    runs: Annotated[int, Field(description="Runs of recipes that are under way.")]
    gpus: Annotated[int, Field(description="GPUs that they hold.")]
    bytes: Annotated[int, Field(description="Size of its `ready` checkpoints.")]


class RemovableAnswer(TypedDict):
    """The data of a project's runs that a rule would remove now."""

    part: Part
    days: Annotated[float | None, Field(description="The rule; null: it is kept for ever.")]
    runs: int
    size_bytes: Annotated[
        int, Field(description="Of `train.log` on the disk, or of the runs' points as stored.")
    ]
    oldest_end: Annotated[schemas.Time | None, Field(description="The earliest end of these runs.")]
    more: Annotated[
        bool, Field(description=f"These are the first {expiry_preview.MOST:,} runs, and not all.")
    ]


class RetentionPreviewAnswer(TypedDict):
    """The data of a project that retention would remove now."""

    project_id: str
    removed: list[RemovableAnswer]


def _days(text: object) -> object:
    return None if text == "none" else text


DaysText = Annotated[
    Days | None,
    BeforeValidator(_days),
    Field(description="Days after a run's end; `none`: the service's. Left out: the project's."),
]


class RetentionPreviewQuery(Parameters):
    """A rule to try."""

    logs_days: DaysText = None
    points_days: DaysText = None
    curves_days: DaysText = None


class MemberAnswer(TypedDict):
    """A user, and its role in a project."""

    user_id: str
    user: str
    role: schemas.Role
    created_at: schemas.Time


class MembersAnswer(TypedDict):
    """The members of a project."""

    members: list[MemberAnswer]


def view(project: Project) -> ProjectAnswer:
    """Return `ProjectAnswer`."""
    approval = project.release_approval
    return {
        "project_id": project.id,
        "name": project.name,
        "description": project.description,
        "created_at": project.created_at,
        "max_runs": project.max_runs,
        "max_gpus": project.max_gpus,
        "max_bytes": project.max_bytes,
        "logs_days": project.logs_days,
        "points_days": project.points_days,
        "curves_days": project.curves_days,
        "release_metrics": load(project.release_metrics) if project.release_metrics else None,
        "release_verified_hours": project.release_verified_hours,
        "release_approval": None if approval is None else bool(approval),  # SQLite has numbers
    }


def _member(member: Member) -> MemberAnswer:
    return {
        "user_id": member.user_id,
        "user": member.user,
        "role": member.role,
        "created_at": member.created_at,
    }


@router.post("", status_code=201, response_model=ProjectAnswer, **accepts_json(ProjectRequest))
async def create_project(request: Request) -> Response:
    """Create a project. For administrators."""
    body = await read(request, ProjectRequest)
    return responses.respond(
        await responses.perform(request, lambda tx: projects.create(tx, body), view, 201)
    )


@router.get("", response_model=ProjectsAnswer, responses=describe_errors())
async def list_projects(request: Request) -> Response:
    """List the projects that you are in, by name."""
    rows = await request.app.state.db.read(projects.list_all)
    return responses.json({"projects": list(map(view, rows))})


@router.get("/{project_id}", response_model=ProjectAnswer, responses=describe_errors(404))
async def get_project(request: Request, project_id: ProjectId) -> Response:
    """Return a project."""
    return responses.json(view(await request.app.state.db.read(projects.get, project_id)))


@router.patch("/{project_id}", response_model=ProjectAnswer, **accepts_json(ProjectUpdate, 404))
async def update_project(request: Request, project_id: ProjectId) -> Response:
    """Change a project, its quotas, its retention and its gate. For administrators.

    What is under way goes on, even if it is more than a new quota allows.
    """
    body = await read(request, ProjectUpdate)
    return responses.respond(
        await responses.perform(request, lambda tx: projects.update(tx, project_id, body), view)
    )


@router.get("/{project_id}/use", response_model=ProjectUseAnswer, responses=describe_errors(404))
async def get_project_use(request: Request, project_id: ProjectId) -> Response:
    """Return what a project has now of what its quotas limit."""
    use = await request.app.state.db.scan(quotas.find_use, project_id)
    return responses.json(
        {"project_id": project_id, "runs": use.runs, "gpus": use.gpus, "bytes": use.bytes}
    )


@router.get(
    "/{project_id}/retention",
    response_model=RetentionPreviewAnswer,
    responses=describe_errors(404, 422),
)
async def preview_retention(
    request: Request, project_id: ProjectId, query: Annotated[RetentionPreviewQuery, Query()]
) -> Response:
    """Return which logs and points a rule would remove now: a dry run. For maintainers.

    Days that are left out are those that hold.
    """
    state = request.app.state
    change = RetentionChange.model_validate(query.model_dump(exclude_unset=True))
    default = Rule(*state.settings.kept_days)
    removed = await expiry_preview.preview(
        state.db, state.readers, state.settings.data_dir, project_id, change, default
    )
    return responses.json({"project_id": project_id, "removed": list(map(_removable, removed))})


def _removable(removable: Removable) -> RemovableAnswer:
    return {
        "part": removable.part,
        "days": removable.days,
        "runs": removable.runs,
        "size_bytes": removable.size_bytes,
        "oldest_end": removable.oldest_end,
        "more": removable.more,
    }


@router.get("/{project_id}/members", response_model=MembersAnswer, responses=describe_errors(404))
async def list_members(request: Request, project_id: ProjectId) -> Response:
    """List the members of a project, by name."""
    rows = await request.app.state.db.read(projects.list_members, project_id)
    return responses.json({"members": list(map(_member, rows))})


@router.post(
    "/{project_id}/members", response_model=MemberAnswer,
    **accepts_json(MemberRequest, 404),
)  # fmt: skip
async def set_member(request: Request, project_id: ProjectId) -> Response:
    """Give a user a role in a project. For its maintainers."""
    body = await read(request, MemberRequest)
    return responses.respond(
        await responses.perform(
            request, lambda tx: projects.set_member(tx, project_id, body), _member
        )
    )


@router.delete("/{project_id}/members/{user_id}", status_code=204, responses=describe_errors(404))
async def remove_member(request: Request, project_id: ProjectId, user_id: UserId) -> Response:
    """Take a user's role in a project away. For its maintainers."""
    await responses.write(request, lambda tx: projects.remove_member(tx, project_id, user_id))
    return Response(status_code=204)
