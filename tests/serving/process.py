"""A real server in a process of its own, on loopback, and a client for it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE = 120


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


@dataclass
class Server:
    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)
    port: int = 0
    token: str | None = None

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Answer:
        """One request on a connection of its own; a body that is not bytes is sent as JSON."""
        sent = dict(headers or {})
        if self.token:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        connection = self.connect()
        try:
            connection.request(method, path, body, sent)
            return read_answer(connection)
        finally:
            connection.close()

    def recommend(self, **request: object) -> Answer:
        return self.ask("POST", "/recommend", {"k": 5, **request})

    def together(self, asks: list[Callable[[], Answer]]) -> list[Answer]:
        with ThreadPoolExecutor(len(asks)) as threads:
            return [each.result() for each in [threads.submit(ask) for ask in asks]]

    def figure(self, name: str) -> float:
        """A counter of `/metrics`, labels included in the name; 0 where it has not begun."""
        text = self.ask("GET", "/metrics").body
        return next((float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < deadline, "".join(self.log)
            time.sleep(0.02)

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(sign)
        return self.process.wait(PATIENCE)


def read_answer(connection: http.client.HTTPConnection) -> Answer:
    response = connection.getresponse()
    data = response.read()
    is_json = response.headers.get("content-type", "").startswith("application/json")
    return Answer(response.status, dict(response.headers), json.loads(data) if is_json and data else data.decode())


@contextmanager
def serving(bundle: Path, *settings: str, token: str | None = None, open_files: int | None = None) -> Iterator[Server]:
    """`intrr serve` of a bundle on a free port, with these `serve.key=value` and this limit of open files."""
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"} | ({"INTRR_TOKEN": token} if token else {})
    command = [sys.executable, "-m", "intrr_rec", "serve", str(bundle), "--port", "0", *settings]
    if open_files is not None:
        command = ["sh", "-c", f'ulimit -n {open_files} && exec "$@"', "sh", *command]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    server = Server(process, token=token)

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            server.log.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                server.port = int(found[1])

    threading.Thread(target=listen, daemon=True).start()
    try:
        server.until(lambda: server.port > 0 or process.poll() is not None)
        assert process.poll() is None, "".join(server.log)
        server.until(lambda: answers(server))
        yield server
    finally:
        process.kill()
        process.wait()


def answers(server: Server) -> bool:
    try:
        return server.ask("GET", "/readyz").status == 200
    except OSError:
        return False
