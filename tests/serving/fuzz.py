"""Requests made from the server's own OpenAPI description, most of them malformed."""

from __future__ import annotations

import http.client
import json
import random
from typing import Any
from urllib.parse import quote

from tests.serving.process import Server

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", " ",
    "0", "\x00", "\ud800", "🛍️" * 50, "a" * 5000, "../../etc/passwd", "%00", "'; --", [], [[]], [None], {}, {"": None},
    {"history": []}, [0] * 3000, "1e5", "NaN",
]  # fmt: skip
WORDS = ["", " ", "1", "%20", "-1", "../..", "%2e%2e", "\x7f", "é", "🛍", "a b", "x" * 300, "None", "1e9", "[]", "{}"]
FEATURES = ["action", "dwell", "app", "rating", "country", "member"]
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "BREW"]
TYPES = [
    "application/json",
    "text/plain",
    "application/json; charset=utf-16",
    "application/x-www-form-urlencoded",
    "",
    "\xff",
]
LINES = [
    b"GET / HTTP/9.9\r\n\r\n", b"\x00\x01\x02\r\n\r\n", b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"GET /items?query=%ZZ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\nHost: [\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
    b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"G" * 70_000 + b"\r\n\r\n",
    b"GET /items/%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n", b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{",
]  # fmt: skip


class Fuzzer:
    """Asks a server, over one connection that is opened anew where it breaks.

    Args:
        server: running.
        seed: of all that is drawn.
    """

    def __init__(self, server: Server, seed: int) -> None:
        self.server = server
        self.random = random.Random(seed)
        self.schema = server.ask("GET", "/openapi.json").body
        self.operations = [
            (path, method, operation)
            for path, methods in self.schema["paths"].items()
            for method, operation in methods.items()
            if path != "/admin/reload"
        ]
        self.connection = server.connect()
        self.statuses: dict[int, int] = {}

    def run(self, number: int) -> dict[int, int]:
        """How often each status was answered; 0 is a connection that the server closed without one."""
        for _ in range(number):
            status = self._raw() if self.random.random() < 0.05 else self._one()
            self.statuses[status] = self.statuses.get(status, 0) + 1
        return self.statuses

    def _one(self) -> int:
        draw = self.random
        path, method, operation = draw.choice(self.operations)
        method = draw.choice(METHODS) if draw.random() < 0.05 else method.upper()
        for parameter in operation.get("parameters", ()):
            word = quote(draw.choice(WORDS)) if draw.random() < 0.7 else quote(json.dumps(draw.choice(ODD))[:500])
            if parameter["in"] == "path":
                path = path.replace("{" + parameter["name"] + "}", word or "%20")
            elif draw.random() < 0.8:
                path += ("&" if "?" in path else "?") + f"{parameter['name']}={word}"
        body, headers = None, {}
        if content := operation.get("requestBody"):
            headers["Content-Type"] = TYPES[0] if draw.random() < 0.9 else draw.choice(TYPES)
            value = self._value(content["content"]["application/json"]["schema"])
            body = json.dumps(value).encode()
            if draw.random() < 0.15:
                body = self._broken(body)
        return self._send(method, path, body, headers)

    def _value(self, schema: dict[str, Any], depth: int = 0) -> Any:
        """A value that fits the schema, but for an odd one here and there."""
        draw = self.random
        if draw.random() < 0.12:
            return draw.choice(ODD)
        if "$ref" in schema:
            name = schema["$ref"].rsplit("/", 1)[1]
            return self._value(self.schema["components"]["schemas"][name], depth)
        if several := schema.get("anyOf") or schema.get("oneOf"):
            return self._value(draw.choice(several), depth)
        kind = schema.get("type")
        if kind == "object":
            keys = [key for key in schema.get("properties", {}) if draw.random() < 0.7]
            made = {key: self._value(schema["properties"][key], depth + 1) for key in keys}
            if isinstance(more := schema.get("additionalProperties"), dict):
                made |= {key: self._value(more, depth + 1) for key in draw.sample(FEATURES, draw.choice([0, 1, 3]))}
            return made | ({draw.choice(WORDS): draw.choice(ODD)} if draw.random() < 0.1 else {})
        if kind == "array":
            return [self._value(schema["items"], depth + 1) for _ in range(draw.choice([0, 1, 2, 5, 30]))]
        if kind == "integer":
            least = int(schema.get("minimum", -5))
            return draw.choice([draw.randint(max(least, -100), max(least, -100) + 120), least, least - 1])
        if kind == "boolean":
            return draw.random() < 0.5
        if kind == "null":
            return None
        return draw.choice(WORDS)

    def _broken(self, body: bytes) -> bytes:
        draw = self.random
        at = draw.randrange(len(body) + 1)
        return draw.choice(
            [
                body[:at],
                body[:at] + bytes([draw.randrange(256)]) + body[at:],
                b"[" * 30_000,
                b'{"history":' * 3000,
                b"9" * 10_000,
                b"\xff\xfe" + body,
                body * 400,
                b"",
            ]
        )

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> int:
        try:
            self.connection.request(method, path, body, headers)
            response = self.connection.getresponse()
            response.read()
            return response.status
        except (OSError, http.client.HTTPException):
            self.connection.close()
            return 0

    def _raw(self) -> int:
        """Bytes that are no HTTP, on a connection of their own."""
        connection = self.server.connect()
        connection.connect()
        assert connection.sock is not None
        connection.sock.settimeout(0.5)
        try:
            connection.sock.sendall(self.random.choice(LINES))
            answer = connection.sock.recv(100)
        except OSError:
            return 0
        finally:
            connection.close()
        return int(answer.split(b" ")[1]) if answer.startswith(b"HTTP/1.1 ") else 0
