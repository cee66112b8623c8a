"""A stand-in for W&B's server: answers what the client asks, remembers runs, and records what it is sent."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "0123456789abcdef" * 2 + "01234567"


class Server:
    """`with Server() as server:`, then WANDB_BASE_URL=server.url and WANDB_API_KEY=wandb_server.KEY."""

    def __init__(self) -> None:
        self.upserts: dict[str, list[dict]] = defaultdict(list)
        """{run id: variables of each upsertBucket}"""
        self.history: dict[str, dict[int, dict]] = defaultdict(dict)
        """{run id: {step: values}}"""
        self.points = 0
        """Lines of history, of all runs, however often a step comes."""
        self.summary: dict[str, dict] = {}
        self.exit_codes: dict[str, int] = {}
        self.uploads: dict[str, bytes] = {}
        """{path: content} of files and artifacts."""
        self.artifacts: list[dict] = []
        """The input of each createArtifact."""
        self.views: list[dict] = []
        """Variables of each upsertView: reports."""
        self.requests = 0
        self.errors: list[str] = []
        """Requests that this server cannot answer."""
        self.trouble = lambda path: None
        """trouble(path) -> None, "hang" or a status to answer with."""

    def __enter__(self) -> Server:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
                server.requests += 1
                trouble = server.trouble(self.path)
                if trouble == "hang":
                    time.sleep(600)
                try:
                    answer = {"error": "trouble"} if trouble else server.answer(self.path, body)
                except Exception as exc:
                    server.errors.append(f"{body[:300]!r}: {exc!r}")
                    answer = {}
                data = json.dumps(answer).encode()
                self.send_response(trouble or 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.handle_error = lambda *_: None  # a killed client resets its connections
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def last(self, run_id: str, key: str):
        """The latest value of a run's field that is not null."""
        return [v[key] for v in self.upserts[run_id] if v.get(key) is not None][-1]

    def config(self, run_id: str) -> dict:
        """The run's configuration, as it was last sent."""
        return {key: entry["value"] for key, entry in json.loads(self.last(run_id, "config")).items()}

    def answer(self, path: str, body: bytes) -> dict:
        if path == "/graphql":
            request = json.loads(body)
            return self.graphql(request["query"], request.get("variables") or {})
        if path.endswith("/file_stream"):
            self.file_stream(path.split("/")[-2], json.loads(body))
        elif path.startswith("/storage/"):
            self.uploads[path.removeprefix("/storage/")] = body
        return {}

    def file_stream(self, run_id: str, message: dict) -> None:
        for name, chunk in (message.get("files") or {}).items():
            for line in chunk["content"]:
                if name == "wandb-history.jsonl":
                    row = json.loads(line)
                    self.history[run_id][row["_step"]] = row
                    self.points += 1
                elif name == "wandb-summary.json":
                    self.summary[run_id] = json.loads(line)
        if message.get("complete"):
            self.exit_codes[run_id] = message["exitcode"]

    def graphql(self, query: str, variables: dict) -> dict:
        project = {"id": "p", "name": variables.get("project") or "p", "entity": {"id": "e", "name": "ent"}}
        name = variables.get("name")
        if "upsertBucket" in query:
            known = name in self.upserts
            self.upserts[name].append(variables)
            bucket = {"id": f"id-{name}", "name": name, "displayName": variables.get("displayName")}
            bucket |= {"description": None, "config": None, "sweepName": None, "project": project}
            bucket["historyLineCount"] = len(self.history[name])
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": not known}}}
        if "query RunResumeStatus" in query:
            if name not in self.upserts:
                return {"data": {"model": project | {"bucket": None}}}
            rows = [self.history[name][step] for step in sorted(self.history[name])]
            bucket = {"id": f"id-{name}", "name": name, "displayName": self.last(name, "displayName")}
            bucket |= {"summaryMetrics": json.dumps(self.summary.get(name, {})), "config": self.last(name, "config")}
            bucket |= {"historyLineCount": len(rows), "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]])}
            bucket |= {"logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]", "tags": [], "notes": None}
            return {"data": {"model": project | {"bucket": bucket | {"wandbConfig": '{"t": {}}'}}}}
        if "query GetProjects" in query:
            node = {"__typename": "Project", "id": "p", "name": "p", "entityName": "ent", "createdAt": "", "user": None}
            page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
            return {"data": {"models": {"pageInfo": page, "edges": [{"node": node | {"isBenchmark": False}}]}}}
        if "upsertView" in query:
            self.views.append(variables)
            view = {"id": "v", "name": variables["name"], "displayName": variables["displayName"], "type": "runs"}
            view |= {"description": "", "project": {"id": "p", "name": "p", "entityName": "ent"}, "user": {}}
            view |= {"spec": variables["spec"], "createdAt": None, "updatedAt": None}
            return {"data": {"upsertView": {"view": view, "inserted": True}}}
        if "viewer" in query:
            viewer = {"id": "v", "entity": "ent", "username": "u", "email": "u@example.com", "flags": "{}"}
            return {"data": {"viewer": viewer | {"teams": {"edges": []}}}}
        if "query ArtifactType" in query:
            return {"data": {"project": {"artifact": None}}}
        if "createRunFiles" in query:
            run = variables["run"]
            files = [{"name": f, "uploadUrl": f"{self.url}/storage/{run}/{f}"} for f in variables["files"]]
            return {"data": {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}}
        if "createArtifactManifest(" in query:
            file = {"id": "f", "name": "m", "displayName": "m", "uploadUrl": f"{self.url}/storage/manifest"}
            file |= {"uploadHeaders": [], "artifact": {"id": "a"}}
            return {"data": {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}}
        if "createArtifactFiles" in query:
            edges = []
            for spec in variables["input"]["artifactFiles"]:
                path = spec["name"]
                url = f"{self.url}/storage/artifact/{path}"
                node = {"id": path, "name": path, "displayName": path, "uploadUrl": url, "uploadHeaders": []}
                node |= {"storagePath": path, "uploadMultipartUrls": None, "artifact": {"id": "a"}}
                edges.append({"node": node})
            return {"data": {"createArtifactFiles": {"files": {"edges": edges}}}}
        if "commitArtifact" in query:
            return {"data": {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}}}
        if "createArtifact(" in query:
            self.artifacts.append(variables["input"])
            artifact = {"id": "a", "state": "PENDING", "artifactSequence": {"id": "s", "latestArtifact": None}}
            return {"data": {"createArtifact": {"artifact": artifact}}}
        return {"data": {}}
