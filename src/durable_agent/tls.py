"""Whom our HTTPS clients trust."""

from __future__ import annotations

import ssl
from functools import cache

import httpx2


@cache
def trusted() -> ssl.SSLContext:
    """Return the system's authorities, or those of `SSL_CERT_FILE` or `SSL_CERT_DIR`; one context for the whole process.

    Reading them takes tens of milliseconds of the processor, so no call may do it for itself.
    """
    return httpx2.create_ssl_context()


@cache
def _nobody() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def trusted_by(url: str) -> ssl.SSLContext:
    """Return whom to trust when nothing but this URL's server is asked: for plain HTTP nobody, and nothing is read."""
    return trusted() if url[:6].lower() == "https:" else _nobody()
