"""Settings: read once, named by their variable when wrong, and documented by an example file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from durable_agent.errors import InvalidRequest
from durable_agent.settings import Settings, read_settings, render_env_example, variable_of

ROOT = Path(__file__).parents[1]


def test_env_example_lists_every_setting_with_its_default() -> None:
    assert (ROOT / ".env.example").read_text() == render_env_example()


def test_the_example_itself_is_a_valid_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable_of(name), raising=False)
    file = tmp_path / ".env"
    file.write_text(render_env_example())
    assert Settings(_env_file=str(file)) == Settings(_env_file=None)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "high"),
        ("MAX_CONCURRENT_TASKS", "0"),
        ("DURABLE_AGENT_LISTEN", "maybe"),
        ("DURABLE_AGENT_QUEUES", " ,"),
        ("DURABLE_AGENT_STATEMENT_TIMEOUT_S", "inf"),
        ("DURABLE_AGENT_STATEMENT_TIMEOUT_S", "9999999"),
        ("DURABLE_AGENT_RETENTION_DAYS", "999999999"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidRequest, match=variable):
        read_settings()


def test_a_database_url_does_not_show_in_a_printed_settings_object() -> None:
    printed = repr(
        Settings(
            _env_file=None, database_url="postgresql://u:hunter2@h/d", database_direct_url="postgresql://u:hunter2@h/d"
        )
    )
    assert "hunter2" not in printed


def test_the_direct_url_falls_back_to_the_pooled_one() -> None:
    assert Settings(_env_file=None, database_url="postgresql://h/d").direct_url == "postgresql://h/d"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:hunter2@h/d",
        "postgresql://me:hunter2/x@h/d",
        "postgresql://me:1/hunter2@h/d",
        "postgresql://me:x@hunter2@h/d",
        "postgresql://me:hunter2%zz@h/d",
        "hunter2",
    ],
)
def test_a_database_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    for name in ("database_url", "database_direct_url"):
        with pytest.raises(InvalidRequest, match=variable_of(name)) as refused:
            read_settings(**{name: url})
        assert "hunter2" not in str(refused.value)


def test_connection_strings_of_every_form_are_let_through() -> None:
    for url in ("postgresql:///d?host=/tmp", "host=/tmp dbname=d", "postgresql://u:p%40@h1:1,h2:2/d?options=a@b"):
        assert read_settings(database_url=url).database_url == url


def test_a_home_is_meant_the_same_by_everything_that_reads_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DURABLE_AGENT_DATA_DIR", "~/data")
    assert read_settings().artifacts_place == "/home/me/data/artifacts"
    assert read_settings(data_dir=Path("here")).data_dir == Path.cwd() / "here"
    assert read_settings(artifacts="~/kept").artifacts_place == "/home/me/kept"
    assert read_settings(artifacts="s3://bucket").artifacts_place == "s3://bucket"
    with pytest.raises(InvalidRequest, match="DURABLE_AGENT_DATA_DIR"):
        read_settings(data_dir=Path("~nobody-of-this-name/x"))


def test_the_containers_of_api_and_workers_share_the_place_of_artifacts() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    api, worker = services["api"], services["worker"]
    (place,) = {one["environment"]["DURABLE_AGENT_ARTIFACTS"] for one in (api, worker)}
    assert f"artifacts:{place}" in api["volumes"]
    assert api["volumes"] == worker["volumes"]
    assert f"install -d -o durable-agent -g durable-agent {place}" in (ROOT / "Dockerfile").read_text()
    assert {"DURABLE_AGENT_SECRET_KEY"} <= set(api["environment"]) & set(worker["environment"])
