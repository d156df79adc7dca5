"""Every setting, read once at start and passed down. Precedence: argument, environment, `.env`, default."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from durable_agent.errors import InvalidRequest
from durable_agent.hosting import default_data_dir

Names = Annotated[tuple[str, ...], NoDecode]
_ENCODE: Final = "; characters like @ : / % in a user or password are written as %40 %3A %2F %25"


def _named(variable: str, default: Any, description: str, **limits: Any) -> Any:
    """Return a field that is read from a variable without the product's prefix."""
    return Field(default, validation_alias=AliasChoices(variable), description=description, **limits)


class Settings(BaseSettings):
    """The settings of one process; frozen. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix="DURABLE_AGENT_", env_file=".env", extra="ignore", frozen=True, populate_by_name=True
    )

    database_url: str | None = _named(
        "DATABASE_URL", None, "PostgreSQL 15 or later; may go through PgBouncer. Empty: the embedded one.", repr=False
    )
    database_direct_url: str | None = _named(
        "DATABASE_DIRECT_URL",
        None,
        "The same without a pooler: LISTEN, liveness, migrations. Empty: DATABASE_URL.",
        repr=False,
    )
    port: int = _named("PORT", 4000, "The API's port.", ge=0, le=65535)
    max_concurrent_tasks: int = _named(
        "MAX_CONCURRENT_TASKS", 10, "How many steps one worker runs at once.", ge=1, le=10_000
    )
    worker_id: str = _named("WORKER_ID", "", "The worker's name in the registry. Empty: host and process id.")

    host: str = Field("127.0.0.1", description="The address the API binds; another than loopback needs an API key.")
    data_dir: Path | None = Field(
        None, description="The embedded PostgreSQL's folder. Empty: ~/.local/share/durable-agent (root: /var/lib/...)."
    )
    artifacts: str = Field(
        "", description="Where large results and files go: a folder, or s3://…, gs://…, az://…. Empty: beside the data."
    )
    queues: Names = Field(("default",), description="The queues a worker serves, separated by commas.", min_length=1)

    lease_ttl_s: float = Field(30.0, description="How long a lease lives without a heartbeat; seconds.", ge=1, le=3600)
    beat_s: float = Field(6.0, description="How often a worker's heart beats; seconds.", gt=0, le=600)
    tick_s: float = Field(
        0.4,
        description="How often a process looks for lost leases and due retries (a quarter as often when idle); seconds.",
        gt=0,
        le=60,
    )
    poll_s: float = Field(
        30.0, description="How often a worker asks for work unhinted, besides the tick's look; seconds.", gt=0, le=60
    )
    drain_grace_s: float = Field(
        25.0, description="How long steps may go on after SIGTERM before they are given back; seconds.", ge=0, le=86_400
    )
    suspicion: bool = Field(True, description="Shorten the leases of a worker whose liveness session is gone.")
    suspicion_s: float = Field(0.4, description="What is left of a suspected worker's leases; seconds.", gt=0, le=60)
    listen: Literal["on", "off"] = Field("on", description="LISTEN/NOTIFY; off: everything polls.")

    max_attempts: int = Field(5, description="How many attempts a step has that brings no retry policy.", ge=1, le=1000)
    max_crashes: int = Field(
        3, description="After how many lost leases a step is sealed as a poison pill.", ge=1, le=100_000
    )
    deadline_s: float = Field(
        3600.0, description="The hard end of an attempt that brings no deadline; seconds.", gt=0, le=31_536_000
    )

    pool_size: int = Field(4, description="How many connections a worker's pool holds.", ge=2, le=100)
    api_pool_size: int = Field(8, description="How many connections each of the API's two pools holds.", ge=2, le=200)
    statement_timeout_s: float = Field(
        30.0, description="The longest a statement may take; seconds.", ge=0.001, le=86_400
    )
    retention_days: int = Field(30, description="How long ended runs are kept; days, 0: for ever.", ge=0, le=36_500)

    max_body_bytes: int = Field(1_048_576, description="The largest request body; bytes.", ge=1024)
    max_batch_bytes: int = Field(33_554_432, description="The largest body of POST /runs/batch; bytes.", ge=1024)
    max_steps: int = Field(10_000, description="How many steps a run may have.", ge=1, le=100_000)
    max_depth: int = Field(32, description="How many levels a submitted JSON value may nest.", ge=1, le=200)
    payload_limit_bytes: int = Field(
        262_144, description="The largest input of a step, and the largest output kept in its row; bytes.", ge=1024
    )
    artifact_limit_bytes: int = Field(
        67_108_864, description="The largest output or file a step may have stored; bytes.", ge=1024
    )
    allowed_hosts: Names = Field((), description="Host names the API answers to besides loopback, separated by commas.")
    allowed_origins: Names = Field((), description="Origins of web pages that may use the API, separated by commas.")
    root_path: str = Field(
        "",
        description="The path a proxy serves the API and its console under, as /tools/agents.",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
    )

    model: str = Field(
        "", description="The model that `default` stands for, as provider:model. Empty: the first provider with a key."
    )
    web_search: Literal["auto", "duckduckgo", "offline"] = Field(
        "auto", description="Where web_search looks; auto: offline while no provider has a key."
    )
    egress_allow: Names = Field(
        (),
        description="Hosts, host:ports and networks that models and tool servers may lead to though they are private.",
    )
    allow_stdio: bool = Field(False, description="Whether a tool server may be a command that workers start.")
    secret_key: str = Field(
        "", description="Encrypts stored tokens; the same for the API and every worker. `up` makes one.", repr=False
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important log line shown."
    )
    log_format: Literal["console", "json"] = Field("console", description="How log lines look.")

    @field_validator("queues", "allowed_hosts", "allowed_origins", "egress_allow", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("database_url", "database_direct_url", "data_dir", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("database_url", "database_direct_url")
    @classmethod
    def _leads_somewhere(cls, value: str | None) -> str | None:
        if value is not None and (fault := _fault_of_url(value)):
            raise ValueError(fault)
        return value

    @field_validator("data_dir")
    @classmethod
    def _at_home(cls, value: Path | None) -> Path | None:
        return None if value is None else _absolute(value)

    @field_validator("artifacts")
    @classmethod
    def _folder_at_home(cls, value: str) -> str:
        return value if not value or "://" in value else str(_absolute(Path(value)))

    @property
    def direct_url(self) -> str | None:
        """The URL for connections that no pooler may stand before."""
        return self.database_direct_url or self.database_url

    @property
    def artifacts_place(self) -> str:
        """Where artifacts go: as set, else a folder beside the data."""
        return self.artifacts or str((self.data_dir or default_data_dir()) / "artifacts")

    @property
    def listening(self) -> bool:
        """Whether LISTEN/NOTIFY is used at all."""
        return self.listen == "on"

    @property
    def worker_name(self) -> str:
        """The worker's name in the registry."""
        return self.worker_id or f"{socket.gethostname()}-{os.getpid()}"


def environment(settings: Settings) -> dict[str, str]:
    """Return what the process was given beside its own settings: the environment over `.env`, as providers' keys are read,
    with those settings that agents read by their names."""
    from dotenv import dotenv_values

    found = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    return {
        **found, **os.environ, "DURABLE_AGENT_MODEL": settings.model, "DURABLE_AGENT_WEB_SEARCH": settings.web_search,
        "DURABLE_AGENT_EGRESS_ALLOW": ",".join(settings.egress_allow),
    }  # fmt: skip


def read_settings(**given: Any) -> Settings:
    """Return the settings; arguments that are None count as not given. Raises InvalidRequest naming the variable."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        variable = variable_of(str(first["loc"][0]))
        raise InvalidRequest(
            f"setting {variable}: {first['msg'].removeprefix('Value error, ')}", field=variable
        ) from None


def variable_of(name: str) -> str:
    """Return the environment variable of a setting."""
    field = Settings.model_fields.get(name)
    if field is None:
        return name
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"DURABLE_AGENT_{name.upper()}"


def render_env_example() -> str:
    """Return the text of `.env.example`: every setting with its meaning and default."""
    lines = ["# Every setting with its default. Copy to .env and change what you need.", ""]
    for name, field in Settings.model_fields.items():
        lines += [f"# {field.description}", f"{variable_of(name)}={_shown(field.default)}", ""]
    return "\n".join(lines)


def _absolute(path: Path) -> Path:
    """Return a folder as every process has to see it, wherever that stands and whoever's home it is."""
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def _fault_of_url(url: str) -> str | None:
    """Return what is wrong with a connection string, in words that hold nothing of it: it has a password."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    _, is_url, rest = url.partition("?")[0].partition("://")
    authority, _, path = rest.partition("/")
    try:
        found = conninfo_to_dict(url)
    except psycopg.Error:
        return f"it is neither a URL (postgresql://…) nor a connection string (host=… dbname=…){_ENCODE}"
    ports = [port for port in str(found.get("port") or "").split(",") if port]
    if not all(port.isdigit() and 0 < int(port) < 65_536 for port in ports):
        return f"its port is no number from 1 to 65535{_ENCODE}"
    if is_url and (authority.count("@") > 1 or "@" in path):
        return f"it has an @ too many{_ENCODE}"
    return None


def _shown(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(value)
        case float():
            return f"{value:g}"
        case _:
            return str(value)
