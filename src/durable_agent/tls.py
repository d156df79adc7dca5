"""Whom our HTTPS clients trust."""

from __future__ import annotations

import os
import ssl
from functools import cache

import httpx2

from durable_agent.errors import InvalidRequest

VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@cache
def trusted() -> ssl.SSLContext:
    """Return the system's authorities, or those of `SSL_CERT_FILE` or `SSL_CERT_DIR`; one context for the whole process.

    Reading them takes tens of milliseconds of the processor, so no call may do it for itself. Raises InvalidRequest when a
    variable names what cannot be read.
    """
    try:
        return httpx2.create_ssl_context()
    except OSError as error:  # ssl.SSLError is one
        named = next((f"{name}={os.environ[name]}" for name in VARIABLES if os.environ.get(name)), "this machine")
        raise InvalidRequest(f"the certificates of {named} cannot be read: {error}") from error


@cache
def _nobody() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def trusted_by(url: str) -> ssl.SSLContext:
    """Return whom to trust when nothing but this URL's server is asked: for plain HTTP nobody, and nothing is read."""
    return trusted() if url[:6].lower() == "https:" else _nobody()
