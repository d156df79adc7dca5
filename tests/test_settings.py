"""Settings: read once, named by their variable when wrong, and documented by an example file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
    ("variable", "value"), [("PORT", "high"), ("MAX_CONCURRENT_TASKS", "0"), ("DURABLE_AGENT_LISTEN", "maybe")]
)
def test_a_bad_value_is_refused_by_the_name_of_its_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidRequest, match=variable):
        read_settings()


@pytest.mark.live
def test_the_suite_obeys_the_listen_switch_it_was_started_with(settings: Settings) -> None:
    assert settings.listening is (os.environ.get("DURABLE_AGENT_LISTEN", "on") == "on")


def test_a_database_url_does_not_show_in_a_printed_settings_object() -> None:
    printed = repr(
        Settings(
            _env_file=None, database_url="postgresql://u:hunter2@h/d", database_direct_url="postgresql://u:hunter2@h/d"
        )
    )
    assert "hunter2" not in printed


def test_the_direct_url_falls_back_to_the_pooled_one() -> None:
    assert Settings(_env_file=None, database_url="postgresql://h/d").direct_url == "postgresql://h/d"
