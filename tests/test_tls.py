"""Whom our clients trust is read once a process: no call waits for it."""

from __future__ import annotations

import ast
import ssl
from pathlib import Path

import pytest

from durable_agent.errors import InvalidRequest
from durable_agent.tls import trusted, trusted_by

SOURCES = Path(__file__).parents[1] / "src" / "durable_agent"


def test_authorities_are_read_once_and_for_plain_http_never(monkeypatch: pytest.MonkeyPatch) -> None:
    once = trusted()
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", None)
    assert trusted_by("HTTPS://host/path") is once
    assert once.verify_mode is ssl.CERT_REQUIRED
    plain = trusted_by("http://host")
    assert plain.cert_store_stats()["x509_ca"] == 0
    assert (plain.verify_mode, plain.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_read_are_named(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "company.pem"
    if content is not None:
        named.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(named))
    with pytest.raises(InvalidRequest, match=r"SSL_CERT_FILE=\S*company\.pem cannot be read"):
        trusted.__wrapped__()


def test_no_client_reads_authorities_for_itself() -> None:
    found = [
        f"{path.relative_to(SOURCES)}:{node.lineno}"
        for path in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (node.func.attr in ("Client", "AsyncClient") and ast.unparse(node.func.value) == "httpx2")
        and not {"verify", "transport"} & {keyword.arg for keyword in node.keywords}
    ]
    assert found == []
