"""Servers that are to serve the current bundle of a registry: asked, told to reload, asked again."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import requests

from intrr_rec.errors import Stopped

log = logging.getLogger(__name__)
SECONDS = 60  # of waiting for an answer; a reload reads and tests the whole bundle


def reload_servers(servers: Sequence[str], current: str) -> None:
    """Have every server serve a bundle; one that does already is left alone.

    Args:
        servers: http://HOST:PORT; the token that they ask for stands in INTRR_TOKEN.
        current: content hash of the bundle.

    Raises:
        Stopped: a server cannot be reached, refuses, or serves another bundle after that.
    """
    token = os.environ.get("INTRR_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    for server in (server.rstrip("/") for server in servers):
        try:
            if _served_by(server) != current:
                said = requests.post(f"{server}/admin/reload", headers=headers, timeout=SECONDS)
                if not said.ok:
                    raise Stopped(f"reload: {server} answers {said.status_code}: {_detail(said)}", 1)
            if (served := _served_by(server)) != current:
                raise Stopped(
                    f"reload: {server} serves {served[:12]}, while {current[:12]} is the current bundle; start it by `intrr "
                    "serve REGISTRY`, with the registry of this pipeline",
                    1,
                )
        except requests.RequestException as error:
            raise Stopped(f"reload: {server} cannot be reached ({type(error).__name__}); start it", 1) from None
        log.info("reload: %s serves %s", server, current[:12])


def _served_by(server: str) -> str:
    said = requests.get(f"{server}/healthz", timeout=SECONDS)
    said.raise_for_status()
    return str(said.json()["bundle"])


def _detail(said: requests.Response) -> str:
    try:
        return str(said.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return said.reason
