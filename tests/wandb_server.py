"""As much of a W&B server as it takes to upload runs to: notes what it is sent, and has every artefact already."""

import contextlib
import gzip
import http.server
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

ME = {"id": "1", "entity": "me", "username": "me", "name": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
UNKNOWN = dict.fromkeys(("deletedAt", "apiKeys", "teams")) | {"admin": False}
MADE = {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z"}
PROJECT = {"id": "1", "name": "tcm_bench", "entityName": "me", "createdAt": MADE["createdAt"], "isBenchmark": False}
PROJECTS = {
    "edges": [{"node": {**PROJECT, "user": ME | UNKNOWN}, "cursor": "1"}],
    "pageInfo": {"endCursor": None, "hasNextPage": False},
}
COMMITTED = {"createArtifact": {"artifact": {"id": "known", "state": "COMMITTED", "artifactSequence": {}}}}


@dataclass
class Received:
    """What came: by run its `history`, by line as its offset says, and `exit_codes`; kinds of `artifacts`; `files`."""

    url: str = ""
    requests: int = 0
    history: dict[str, dict[int, dict[str, Any]]] = field(default_factory=lambda: defaultdict(dict))
    lines: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    summaries: dict[str, str] = field(default_factory=dict)
    exit_codes: dict[str, int] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    reports: list[dict[str, Any]] = field(default_factory=list)
    upserts: list[dict[str, Any]] = field(default_factory=list)


def _state(run: str, history: dict[int, dict[str, Any]], received: Received) -> dict[str, Any]:
    """What a client that goes on with a run is told of it."""
    last = json.dumps([json.dumps(history[max(history)])])
    counts = {"historyLineCount": len(history), "eventsLineCount": 0, "logLineCount": 0}
    kept = {"summaryMetrics": received.summaries[run], "config": "{}", "wandbConfig": '{"t": {}}'}
    return {"name": run, **counts, "historyTail": last, "eventsTail": "[]", **kept}


def _view(sent: dict[str, Any], received: Received) -> dict[str, Any]:
    """What a client is told of the report that it has sent."""
    received.reports.append({"title": sent["displayName"], **json.loads(sent["spec"])})
    same = {name: sent[name] for name in ("name", "displayName", "description", "type", "spec")}
    return {**same, **MADE, "id": "Vmlldzox", "project": PROJECT, "user": ME}


@contextlib.contextmanager
def wandb_server() -> Iterator[Received]:
    received = Received()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/graphql" or self.path.endswith("/file_stream"):
                sent = json.loads(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            else:  # what the client says of itself
                return self._answer({})
            received.requests += 1
            return self._answer(self._taken(sent))

        def _taken(self, sent):
            if self.path.endswith("/file_stream"):
                run = self.path.split("/")[-2]
                lines = sent.get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
                for number, line in enumerate(lines["content"], start=lines["offset"]):
                    received.history[run][number] = json.loads(line)
                    received.lines.append((number, received.history[run][number]))
                for line in sent.get("files", {}).get("wandb-summary.json", {}).get("content", ()):
                    received.summaries[run] = line
                if "exitcode" in sent:
                    received.exit_codes[run] = sent["exitcode"]
                return {}
            if sent.get("operationName") == "CreateArtifact":
                received.artifacts.append(sent["variables"]["input"]["artifactTypeName"])
                return {"data": COMMITTED}
            if "upsertView" in sent["query"]:
                return {"data": {"upsertView": {"view": _view(sent["variables"], received)}}}
            if "viewer" in sent["query"]:
                return {"data": {"viewer": ME}}
            if "GetProjects" in sent["query"]:
                return {"data": {"models": PROJECTS}}
            if sent.get("operationName") == "UpsertBucket":
                received.upserts.append(sent["variables"])
            if sent.get("operationName") == "CreateRunFiles":
                places = [{"name": name, "uploadUrl": f"{received.url}/{name}"} for name in sent["variables"]["files"]]
                return {"data": {"createRunFiles": {"runID": "known", "uploadHeaders": [], "files": places}}}
            if sent.get("operationName") == "RunResumeStatus" and (
                known := received.history.get(sent["variables"]["name"])
            ):
                return {"data": {"model": {"bucket": _state(sent["variables"]["name"], known, received)}}}
            return {"data": {}}

        def do_PUT(self):
            received.requests += 1
            received.files[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer({})

        def _answer(self, words):
            data = json.dumps(words).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
