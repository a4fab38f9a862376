"""Configuration: the environment, prefix `LLM_TRAIN_`; nothing else reads it."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from app.domain.gate import Bound, Gate
from app.domain.hosts import AllowedHosts, is_host, is_loopback, is_origin
from app.domain.mail import SmtpServer, is_address
from app.domain.team import MAX_DAYS
from app.domain.webhooks import Network

PREFIX = "LLM_TRAIN_"
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
TRAINERS = {"API_URL", "RUN_ID", "RUN_TOKEN", "ATTEMPT", "RUN_DIR", "NONCE"}
"""Variables of this prefix that are no settings: the service hands them to its trainers."""


class Settings(BaseModel):
    """Every setting: as given, else of its variable, else a default that serves on a laptop.

    Raises ValidationError.
    """

    model_config = ConfigDict(validate_default=True)

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    database_url: str = "sqlite:///app.db"
    # PostgreSQL: as many connections as this server opens at most.
    database_connections: Annotated[int, Field(ge=5, le=200)] = 16
    data_dir: Path = Path("data")
    # Where checkpoints are kept: in the data directory, or what another package brings.
    storage: str = "directory:"
    # A TOML file whose recipes join the built-in ones.
    recipes: Path | None = None
    # What every request must bring; without one, only this machine can connect.
    api_token: Annotated[str, Field(min_length=16, pattern="^[!-~]+$")] | None = None
    # Further names under which clients may reach the service: "gpu.example.com",
    # "gpu.example.com:8443" for that port only, "*.cluster.local", "10.0.0.0/8". Pages in browsers
    # may be of the hosts that are named, not of those that only match a pattern.
    allowed_hosts: list[str] = []
    # Frontends elsewhere whose pages may call the service: "https://ui.example.com:8443".
    allowed_origins: list[str] = []
    # The path under which a proxy serves this service, such as "/training".
    root_path: str = ""
    max_local_runs: Annotated[int, Field(ge=1, le=1000)] = 4
    # GPU types of this machine, instead of asking the driver: "A100,A100".
    gpus: list[str] | None = None
    # External trainers: the longest silence, and the time to react to a cancel.
    external_heartbeat_seconds: Annotated[float, Field(gt=0)] = 60.0
    # The longest silence of a run that an MLflow or W&B client has created; 0: any.
    tracking_heartbeat_seconds: Annotated[float, Field(ge=0)] = 3600.0
    external_grace_seconds: Annotated[float, Field(ge=0)] = 30.0
    # Signs run tokens; made and kept in the database when not given.
    secret: Annotated[str, Field(min_length=32)] | None = None
    max_body_bytes: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024
    # Where agents on other machines reach this service: "https://train.example.com/prefix".
    public_url: str | None = None
    # What one run may upload of a checkpoint before it is committed.
    max_upload_gb: Annotated[float, Field(gt=0, le=1e6)] = 1000.0
    # Private networks in which webhooks may be: "10.0.0.0/8,127.0.0.1/32".
    webhook_networks: list[Network] = []
    # Who takes e-mail, "smtp://user:password@mail.example.com:587", and whose it is.
    smtp_url: str | None = None
    mail_from: str = "llm-train@localhost"
    # What a checkpoint must meet to become a release: "val_loss<=2.0,accuracy>0.8"; and the age
    # of the last reading that found it whole.
    release_metrics: list[str] = []
    release_verified_hours: Annotated[float, Field(gt=0, le=1e6)] | None = None
    # Whether somebody else than who releases it must have marked it as `approved`.
    release_approval: bool = False
    # A provider of OpenID Connect with which people sign in, "https://login.example.com/realms/ml",
    # and this service as its client: the address to allow there is PUBLIC_URL/oidc-callback.
    oidc_issuer: str | None = None
    oidc_client_id: Annotated[str, Field(min_length=1)] | None = None
    # None: a public client, which PKCE alone protects.
    oidc_client_secret: Annotated[str, Field(min_length=1)] | None = None
    oidc_scopes: Annotated[str, Field(pattern=r"^openid( [!-~]+)*$")] = "openid profile email"
    # The claim with the names of a person's groups, which the table [groups] gives roles.
    oidc_groups_claim: Annotated[str, Field(min_length=1)] = "groups"
    # For how long after a run's end its log, all of its points and its curves are kept, where its
    # project says nothing; left out: for ever.
    logs_days: Annotated[float, Field(gt=0, le=MAX_DAYS)] | None = None
    points_days: Annotated[float, Field(gt=0, le=MAX_DAYS)] | None = None
    curves_days: Annotated[float, Field(gt=0, le=MAX_DAYS)] | None = None
    # How long it is kept who did what.
    audit_days: Annotated[float, Field(gt=0, le=MAX_DAYS)] = 365.0
    # A collector of OpenTelemetry's traces that speaks OTLP over HTTP: "http://127.0.0.1:4318".
    otlp_endpoint: str | None = None
    introspection: bool = True
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    # For tests: where to die, e.g. "launch.spawned:kill".
    failpoint: Annotated[str, Field(pattern=":")] | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_environment(cls, given: dict[str, Any]) -> dict[str, Any]:
        names = {PREFIX + name.upper(): name for name in cls.model_fields}
        found = {names.get(name.upper()): value for name, value in os.environ.items()}
        return {name: value for name, value in found.items() if name is not None} | given

    @field_validator("host")
    @classmethod
    def _name(cls, value: str) -> str:
        try:
            value.encode("idna")
        except UnicodeError:
            raise ValueError(f"{value!r} is no address and no name of a host") from None
        return value

    @field_validator(
        "allowed_hosts",
        "allowed_origins",
        "gpus",
        "webhook_networks",
        "release_metrics",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return [item.strip() for item in value.split(",") if item.strip()]

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, names: list[str]) -> list[str]:
        for name in names:
            try:
                AllowedHosts([name])
            except ValueError:
                raise ValueError(
                    f"{name!r} is not a name like gpu.example.com or [::1]:8000, "
                    "*.cluster.local or 10.0.0.0/8"
                ) from None
        return [name.lower() for name in names]

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if not is_origin(origin.lower()):
                raise ValueError(f"{origin!r} is not an origin like https://ui.example.com:8443")
        return [origin.lower() for origin in origins]

    @field_validator("release_metrics")
    @classmethod
    def _bounds(cls, bounds: list[str]) -> list[str]:
        for bound in bounds:
            Bound.parse(bound)
        return bounds

    @field_validator("smtp_url")
    @classmethod
    def _smtp(cls, value: str | None) -> str | None:
        if value is not None:
            SmtpServer.parse(value)
        return value

    @field_validator("mail_from")
    @classmethod
    def _sender(cls, value: str) -> str:
        if not is_address(value):
            raise ValueError(f"{value!r} is not an address like llm-train@example.com")
        return value

    @field_validator("public_url", "otlp_endpoint")
    @classmethod
    def _public(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            good = parts.scheme in ("http", "https") and bool(parts.hostname)
            good = good and (parts.port is None or parts.port > 0) and "@" not in parts.netloc
        except ValueError:
            good = False
        if not good or parts.query or parts.fragment or not re.fullmatch("[!-~]+", value):
            raise ValueError(f"{value!r} is not a URL like https://train.example.com/prefix")
        return value.rstrip("/")

    @field_validator("oidc_issuer")
    @classmethod
    def _issuer(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            secure = parts.scheme == "https" or (
                parts.scheme == "http" and is_loopback(parts.hostname or "")
            )
            if not secure or not parts.hostname or parts.query or parts.fragment:
                raise ValueError(f"{value!r} is not a URL like https://login.example.com")
        return value

    @model_validator(mode="after")
    def _sign_in_is_whole(self) -> "Settings":
        if self.oidc_issuer is None:
            return self
        for name in ("api_token", "public_url", "oidc_client_id"):
            if getattr(self, name) is None:
                raise ValueError(f"LLM_TRAIN_OIDC_ISSUER needs LLM_TRAIN_{name.upper()} as well")
        return self

    @field_validator("root_path")
    @classmethod
    def _path(cls, value: str) -> str:
        path = value.rstrip("/")
        if not _ROOT_PATH.fullmatch(path):
            raise ValueError(f"{value!r} is not a path like /training")
        return path

    @model_validator(mode="after")
    def _no_open_door(self) -> "Settings":
        if not self.loopback and self.api_token is None:
            raise ValueError(
                f"LLM_TRAIN_HOST={self.host} is reachable from other machines: "
                "set LLM_TRAIN_API_TOKEN (16 characters or more) to allow it"
            )
        return self

    @property
    def gate(self) -> Gate:
        """Return what a checkpoint must meet to become a release."""
        return Gate(
            tuple(map(Bound.parse, self.release_metrics)), self.release_verified_hours,
            self.release_approval,
        )  # fmt: skip

    @property
    def kept_days(self) -> tuple[float | None, float | None, float | None]:
        """Return the days for which a run's log, points and curves are kept; None: for ever."""
        return self.logs_days, self.points_days, self.curves_days

    @property
    def environment(self) -> Mapping[str, str]:
        """Return this process's environment, of which recipes pass a part on to trainers."""
        return os.environ

    @property
    def python(self) -> str:
        """Return the interpreter that serves, which recipes may name."""
        return sys.executable

    @property
    def hosts(self) -> frozenset[str]:
        """Return every allowed Host: loopback's names, the bound, public and configured ones."""
        own = f"[{self.host}]" if ":" in self.host else self.host
        public = {urlsplit(self.public_url).hostname or ""} if self.public_url else set()
        public = {f"[{name}]" if ":" in name else name for name in public}
        local = {"127.0.0.1", "localhost", "[::1]", own.lower()}
        return frozenset(local | public | {*self.allowed_hosts})

    @property
    def max_upload_bytes(self) -> int:
        """Return `max_upload_gb` in bytes."""
        return int(self.max_upload_gb * 1e9)

    @property
    def origins(self) -> frozenset[str]:
        """Return the hosts whose pages may use the service from a browser."""
        return frozenset(filter(is_host, self.allowed_hosts))

    @property
    def loopback(self) -> bool:
        """Return True if only this machine can connect."""
        return is_loopback(self.host)


def load_settings(**overrides: object) -> Settings:
    """Return the settings of this process; warn in one line about misspelt variables.

    Raises SystemExit with one line that names a wrong value.
    """
    if (warning := find_misspelt()) is not None:
        sys.stderr.write(f"llm-train: {warning}\n")
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper() + ": " if first["loc"] else ""
        sys.exit(f"llm-train: {name}{first['msg'].removeprefix('Value error, ')}")


def find_misspelt() -> str | None:
    """Return one line about variables that look like settings and are none, or None."""
    known = {name.upper() for name in Settings.model_fields}
    ours = [name for name in sorted(os.environ) if name.upper().startswith(PREFIX)]
    wrong = [name for name in ours if name.upper()[len(PREFIX) :] not in known | TRAINERS]
    if not wrong:
        return None
    from difflib import get_close_matches  # few starts need it

    names = []
    for name in wrong:
        near = get_close_matches(name.upper()[len(PREFIX) :], sorted(known), 1)
        names.append(f"{name} (did you mean {PREFIX}{near[0]}?)" if near else name)
    return f"ignored, as no such setting exists: {', '.join(names)}"
