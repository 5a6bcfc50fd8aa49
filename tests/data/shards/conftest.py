"""Shards, and servers that break off."""

import io
import json
import os
import re
import socket
import struct
import tarfile
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stable_audio_tools.data.shards import storage


@pytest.fixture(autouse=True)
def nothing_is_kept_elsewhere(monkeypatch, tmp_path_factory):
    """Indexes read from afar are kept on this machine: not on that of whoever runs the tests. And nobody waits."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(storage, "FIRST_WAIT_SECONDS", 0.005)


def wav(seconds=0.5, *, seed=0, rate=8000, value=None):
    """Bytes of a WAV file: noise, or a constant that tells it from others."""
    count = int(rate * seconds)
    samples = np.full(count, value) if value is not None else 0.2 * np.random.default_rng(seed).standard_normal(count).clip(-4, 4)
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV")
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_shards(folder: Path, sizes=(4, 1, 5), *, seconds=0.5) -> Path:
    """Shards ``0.tar`` ... of ``a/000.wav`` (a constant, number / 100) with ``a/000.json``, without an index."""
    number = 0
    for shard, size in enumerate(sizes):
        members = {}
        for _ in range(size):
            members[f"a/{number:03}.wav"] = wav(seconds, value=(number + 1) / 100)
            members[f"a/{number:03}.json"] = json.dumps({"text": f"clip {number}", "number": number}).encode()
            number += 1
        write_tar(folder / f"{shard}.tar", members)
    return folder


class _Files(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: str
    knows_ranges = True
    status: int | None = None

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, *, with_body):
        path = os.path.join(self.folder, self.path.lstrip("/"))
        server = self.server
        server.requests.append((self.command, self.path, self.headers.get("Range")))
        if server.status or not os.path.exists(path):
            return self._send(server.status or 404, b"", with_body)
        if os.path.isdir(path):
            names = sorted(os.listdir(path))
            return self._send(200, "".join(f'<a href="{name}">{name}</a>\n' for name in names).encode(), with_body)
        data = Path(path).read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked or not server.knows_ranges:
            return self._send(200, data, with_body, {"Accept-Ranges": "bytes"} if server.knows_ranges else {})
        first, last = int(asked[1]), int(asked[2] or len(data) - 1)
        part = data[first : last + 1]
        return self._send(206, part, with_body, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"})

    def _send(self, status, body, with_body, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    status = None
    knows_ranges = True

    def handle_error(self, request, client_address):
        pass  # connections that a test cut


@pytest.fixture
def serve():
    """``serve(folder)``: an HTTP server of its files, with ``url`` and ``requests``."""
    servers = []

    def start(folder):
        handler = type("Files", (_Files,), {"folder": str(folder)})
        server = _Server(("127.0.0.1", 0), handler)
        server.requests = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Cutter:
    """A TCP proxy whose first connections break after so many bytes of the answer: ``cuts`` are taken one by one."""

    def __init__(self, port, cuts=()):
        self.target = port
        self.cuts = list(cuts)
        self.num_cut = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self._copy, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self._copy, args=(server, client, self), daemon=True).start()

    def _copy(self, source, target, cutter):
        budget = None
        with suppress(OSError):
            while data := source.recv(1 << 14):
                if cutter is not None and budget is None and len(data) > 2000 and self.cuts:
                    budget = self.cuts.pop(0)  # only answers that carry something are worth a cut
                if budget is not None and len(data) >= budget:
                    target.sendall(data[:budget])
                    self.num_cut += 1
                    for end in (source, target):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a polite end
                    break
                budget = None if budget is None else budget - len(data)
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self):
        self._listener.close()


@pytest.fixture
def cutter():
    """``cutter(port, cuts)``: see `Cutter`."""
    made = []

    def make(port, cuts=()):
        made.append(Cutter(port, cuts))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture(name="wav", scope="session")
def _wav():
    return wav


@pytest.fixture(name="write_tar", scope="session")
def _write_tar():
    return write_tar


@pytest.fixture(name="write_shards", scope="session")
def _write_shards():
    return write_shards
