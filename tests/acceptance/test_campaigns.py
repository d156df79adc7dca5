"""The fault proxy of the campaigns: each fault lands, is counted where it happened, and nothing is counted without it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from harness.broken import BROKEN
from harness.proxy import Proxy
from harness.relay import Answers

from tests.support.postgres import Database

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    """A running proxy."""
    made = Proxy(tmp_path / "proxy.log")
    yield made
    made.close()


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that answers what it is told."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    conn, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(conn,), daemon=True).start()

        def answer(conn: socket.socket) -> None:
            with conn:
                try:
                    while data := conn.recv(4096):
                        conn.sendall(data)
                except OSError:
                    pass

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def test_what_is_not_hurt_is_carried_and_nothing_is_counted(proxy: Proxy, echo: int) -> None:
    """Faults off reports none."""
    with socket.create_connection(("127.0.0.1", proxy.open("a", echo))) as client:
        client.sendall(b"hello")
        assert client.recv(10) == b"hello"
        counts = proxy.counts("a")
        assert (counts["held"], counts["delayed"], counts["commits"], counts["links"]) == (0, 0, 0, 1)


@pytest.mark.parametrize("way", [{"up": True}, {"down": True}, {"up": True, "down": True}])
def test_a_silent_direction_holds_what_comes_and_gives_it_when_healed(
    proxy: Proxy, echo: int, way: dict[str, bool]
) -> None:
    """A half-open connection looks alive to both; nothing is lost when it heals."""
    port = proxy.open("a", echo)
    neighbour = socket.create_connection(("127.0.0.1", proxy.open("b", echo)))
    with socket.create_connection(("127.0.0.1", port)) as client, neighbour:
        proxy.hold("a", **way)
        client.sendall(b"hello")
        neighbour.sendall(b"there")
        assert neighbour.recv(10) == b"there", "another route was hurt"
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(10)
        client.settimeout(10)
        assert proxy.heal("a")["held"] == 5
        assert client.recv(10) == b"hello"


def test_only_what_was_really_held_counts(proxy: Proxy, echo: int) -> None:
    """A partition in which nobody spoke did not land."""
    with socket.create_connection(("127.0.0.1", proxy.open("a", echo))):
        proxy.hold("a", up=True, down=True)
        assert proxy.heal("a")["held"] == 0


def test_a_delay_delays_and_is_counted(proxy: Proxy, echo: int) -> None:
    """Both directions wait."""
    with socket.create_connection(("127.0.0.1", proxy.open("a", echo))) as client:
        proxy.hold("a", delay_s=0.05)
        client.sendall(b"hello")
        assert client.recv(10) == b"hello"
        assert proxy.heal("a")["delayed"] == 2


def test_a_reset_is_a_reset_and_an_end_is_an_end(proxy: Proxy, echo: int) -> None:
    """SO_LINGER 0 sends RST; without it the client reads the end of the stream."""
    port = proxy.open("a", echo)
    for reset in (True, False):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"hello")
            assert client.recv(10) == b"hello"
            assert proxy.sever("a", reset=reset) == 1
            if reset:
                with pytest.raises(ConnectionResetError):
                    client.recv(10)
            else:
                assert client.recv(10) == b""
    assert proxy.sever("a", reset=True) == 0


def test_what_was_held_is_thrown_away_when_the_connection_is_severed(proxy: Proxy, echo: int) -> None:
    """A failover loses what was on its way: it must not arrive after all."""
    with socket.create_connection(("127.0.0.1", proxy.open("a", echo))) as client:
        proxy.hold("a", down=True)
        client.sendall(b"hello")
        while proxy.counts("a")["held"] == 0:
            pass
        proxy.sever("a", reset=True)
        proxy.heal("a")
        with pytest.raises(ConnectionResetError):
            client.recv(10)


def test_a_route_can_be_led_elsewhere(proxy: Proxy, echo: int) -> None:
    """New connections go to the new target."""
    nowhere = socket.create_server(("127.0.0.1", 0))
    port = proxy.open("a", nowhere.getsockname()[1])
    nowhere.close()
    with socket.create_connection(("127.0.0.1", port)) as client, pytest.raises(ConnectionResetError):
        client.recv(10)
    proxy.aim("a", echo)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"hello")
        assert client.recv(10) == b"hello"


async def test_a_commit_takes_place_and_its_answer_never_comes(proxy: Proxy, database: Database) -> None:
    """The client sees a reset; the server has the row. Only an armed route does so, and as often as it was armed."""
    info = psycopg.conninfo.conninfo_to_dict(database.url)
    port = proxy.open("db", int(str(info["port"])))
    through = psycopg.conninfo.make_conninfo(database.url, host="127.0.0.1", port=port)

    async def insert(n: int) -> None:
        async with await psycopg.AsyncConnection.connect(through, autocommit=True) as conn, conn.pipeline():
            await conn.execute("begin")
            await conn.execute("insert into told values (%s)", (n,))
            await conn.execute("commit")

    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as own:
        await own.execute("create table told (n int)")
        await insert(1)
        assert proxy.counts("db")["commits"] == 0
        proxy.arm("db", 1)
        with pytest.raises(psycopg.OperationalError):
            await insert(2)
        await insert(3)
        assert proxy.counts("db")["commits"] == 1
        rows = await (await own.execute("select n from told order by n")).fetchall()
        assert [row[0] for row in rows] == [1, 2, 3]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_commit_is_seen_however_the_answers_are_cut(size: int) -> None:
    """Chunks end where they like; a value that looks like the answer is none."""
    row = b"D" + (4 + 2 + 4 + 12).to_bytes(4) + (1).to_bytes(2) + (12).to_bytes(4) + b"C\0\0\0\x0bCOMMIT\0"
    data = b"N" + b"C\0\0\0\x0aBEGIN\0" + row + b"C\0\0\0\x0bCOMMIT\0" + b"Z\0\0\0\5I"
    answers = Answers()
    answers.single_bytes = 1
    found = [at for at in range(0, len(data), size) if answers.commit(data[at : at + size]) is not None]
    ends = len(data) - 6
    assert found == [(ends - 1) // size * size]


def test_every_mutant_fits_the_sources() -> None:
    """A mutant that changes nothing would pass for one that was not caught."""
    package = Path(__file__).parents[2] / "src" / "durable_agent"
    for mutant, edits in BROKEN.items():
        for edit in edits:
            assert edit.old in (package / edit.file).read_text(), f"{mutant} does not fit {edit.file}"
            assert edit.old != edit.new
