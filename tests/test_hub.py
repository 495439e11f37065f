"""Networks on the hub, against a stand-in of the hub on this machine."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import image2point as i2p
from image2point.lifting.artefact import parsed
from image2point.lifting.hub import card

COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of its hub to make a repository, to commit small files and to download them."""

    repositories: dict[str, dict[str, bytes]]

    def do_HEAD(self) -> None:
        self._file(send=False)

    def do_GET(self) -> None:
        self._file(send=True)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.repositories.setdefault(name, {})
            return self._json({"url": f"http://{self.headers['Host']}/{name}"})
        if self.path == "/stop":
            self._json({})
            threading.Thread(target=self.server.shutdown).start()
            return self.server.socket.close()
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        name = "/".join(self.path.split("/")[3:5])
        if name not in self.repositories:
            return self._json({"error": "no such repository"}, 404)
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            return self._json(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self._json({"commitUrl": f"http://{self.headers['Host']}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def _file(self, send: bool) -> None:
        parts = self.path.strip("/").split("/")
        content = self.repositories.get("/".join(parts[:2]), {}).get(parts[-1]) if "resolve" in parts else None
        if content is None:
            known = "/".join(parts[:2]) in self.repositories
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{len(content)}-{parts[-1]}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if send:
            self.wfile.write(content)

    def _json(self, content: object, code: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Fresh", (Hub,), {"repositories": {}}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def on(hub: ThreadingHTTPServer, home: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process whose hub is the stand-in."""
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", "HF_HOME": str(home), "HF_TOKEN": "hf_of_nobody",
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    lines = "import numpy as np, image2point as i2p\npoints = [np.random.default_rng(0).random((300, 3))]\n"
    return subprocess.run(
        [sys.executable, "-c", lines + code], env={**os.environ, **settings}, capture_output=True, text=True
    )


def test_a_network_goes_to_the_hub_and_back(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    made = (
        "net = i2p.lift('test_resnet', weights='random', num_classes=2).eval()\n"
        "net.use(voxel_size=0.2, classes=['ball', 'box'])\n"
        "print(net.push_to_hub('somebody/mine', scores={'accuracy': 0.5}, licence='mit'))\n"
        "print(net.predict(points)[0].probabilities.tolist())\n"
    )
    pushed = on(hub, tmp_path / "one", made)
    assert pushed.returncode == 0, pushed.stderr
    address, said = pushed.stdout.splitlines()
    assert address.endswith("/somebody/mine")
    stored = hub.RequestHandlerClass.repositories["somebody/mine"]  # type: ignore[attr-defined]
    assert stored.keys() == {"README.md", "network.json", "weights.safetensors"}
    assert b"license: mit" in stored["README.md"] and b'i2p.load("hf:somebody/mine")' in stored["README.md"]
    loaded = on(
        hub,
        tmp_path / "other",
        "net = i2p.load('hf:somebody/mine')\nprint(net.predict(points)[0].probabilities.tolist())\n",
    )
    assert loaded.stdout.strip() == said, loaded.stderr


def test_what_cannot_be_had_is_named(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    hub.RequestHandlerClass.repositories["somebody/empty"] = {}  # type: ignore[attr-defined]
    code = """
net = i2p.lift('test_resnet', weights='random', num_classes=2)
def told(call):
    try:
        call()
    except i2p.InputError as error:
        print(error)
for name in ('somebody/other', 'a/b/c', 'somebody/empty'):
    told(lambda: i2p.load(f'hf:{name}'))
from huggingface_hub import constants
told(lambda: net.push_to_hub('not a name'))
import urllib.request
urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT + '/stop', method='POST', data=b''))
told(lambda: i2p.load('hf:somebody/other'))
told(lambda: net.push_to_hub('somebody/mine'))
"""
    done = on(hub, tmp_path, code)
    lines = done.stdout.splitlines()
    messages = (
        "hf:somebody/other: the hub has no such network", "expected hf:OWNER/NAME[@REVISION], found 'hf:a/b/c'",
        "hf:somebody/empty is no network", "expected OWNER/NAME, found 'not a name'", "hf:somebody/other",
        "somebody/mine cannot be uploaded",
    )  # fmt: skip
    assert len(lines) == len(messages), done.stderr
    for line, message in zip(lines, messages, strict=True):
        assert line.startswith(message), line


def test_the_card_says_how_to_use_the_network(tmp_path: Path) -> None:
    net = i2p.segmenter("test_resnet", num_classes=3, weights="random", in_channels=4)
    home = net.save(
        tmp_path / "net", voxel_size=0.25, classes=["floor", "wall", "ball"], features=["xyz", "ground_height"], up="z",
        scores={"test_miou": 0.4321},
    )  # fmt: skip
    text = card(parsed(json.loads((home / "network.json").read_text()), "net"), "somebody/mine")
    for line in (
        "- segmentation", "license: unknown", "| classes | floor, wall, ball |", "| voxel size | 0.25 |", "| up | z |",
        "| input features | xyz, ground_height |", "| test_miou | 0.4321 |", "net.predict([points])",
    ):  # fmt: skip
        assert line in text, line
