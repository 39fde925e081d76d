"""A web server for downloads that misbehaves as it is told, request by request."""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """What one request gets.

    Attributes:
        status: Other than 200: an answer without the file.
        headers: Added to the answer.
        body: The file as this answer has it; None: the mirror's.
        drop_after: Cut the connection after so many bytes of the body; None: do not.
        ranges: Whether the header `Range` is heeded.
        etag: Of the file; None: the mirror does not say.
        heeds_if_range: Whether the header `If-Range` is.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    drop_after: int | None = None
    ranges: bool = True
    etag: str | None = '"one"'
    heeds_if_range: bool = True


class Mirror:
    """Serves one file under every path; the last of the answers is given to all further requests.

    Attributes:
        requests: Headers of the requests so far, and their path under `:path`.
    """

    def __init__(self, body: bytes, answers: Sequence[Answer] = ()) -> None:
        self.body, self.answers = body, list(answers) or [Answer()]
        self.requests: list[dict[str, str]] = []
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                mirror.requests.append({**dict(self.headers), ":path": self.path})
                answers = mirror.answers
                mirror.answer(self, answers.pop(0) if len(answers) > 1 else answers[0])

            def log_message(self, *words: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> "Mirror":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, path: str = "/file.tgz") -> str:
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def answer(self, handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        body, start = self.body if answer.body is None else answer.body, 0
        status, headers = answer.status, dict(answer.headers)
        if status == 200:
            if answer.etag:
                headers["ETag"] = answer.etag
            wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
            same = not answer.heeds_if_range or handler.headers.get("If-Range", answer.etag) == answer.etag
            if wanted and answer.ranges and same:
                start = int(wanted[1])
                status = 206 if start < len(body) else 416
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                if status == 416:
                    headers["Content-Range"] = f"bytes */{len(body)}"
        sent = body[start:] if status in (200, 206) else b""
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(sent)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(sent if answer.drop_after is None else sent[: answer.drop_after])
        if answer.drop_after is not None:
            handler.close_connection = True
