"""Stands for the worker environment's Python: answers like vLLM, LMCache or the version question, by its arguments.

How it behaves stands in `behaviour.json` in the folder that its first argument names, and what it did in `journal`
there: one line a start. Run as a script by `conftest.py`'s wrapper.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

SLEEPER = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"


def main(folder: Path, arguments: list[str]) -> None:
    behaviour = json.loads((folder / "behaviour.json").read_text("utf-8"))
    if "-c" in arguments:
        sys.stdout.write(json.dumps(behaviour["packages"]))
        return
    lmcache = any(argument.endswith("kv_server.py") for argument in arguments)
    port = int(arguments[arguments.index("--http-port" if lmcache else "--port") + 1])
    name = "lmcache" if lmcache else f"port-{port}"
    if port in behaviour["stubborn"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if lmcache:
        ports = arguments[arguments.index("--port") + 1], str(port)
        Path(f"/dev/shm/lmcache_l1_pool_kvshelf_{ports[0]}_{ports[1]}").touch()  # noqa: S108 - as LMCache does
    pids = [os.getpid()]
    if port in behaviour["families"]:
        # As vLLM's engine core: a child of its own, here one that ignores SIGTERM and leaves the process group.
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", SLEEPER], stdout=subprocess.PIPE, start_new_session=True)
        assert child.stdout is not None
        child.stdout.readline()
        pids.append(child.pid)
    with (folder / "journal").open("a", encoding="utf-8") as journal:
        journal.write(f"{name} {' '.join(map(str, pids))}\n")
    if port in behaviour["broken"]:
        sys.stdout.write("first line\nCUDA is not what it was\n")
        sys.stdout.flush()
        os._exit(3)
    if port in behaviour["silent"]:
        signal.pause()
    Server(("127.0.0.1", port), Handler).serve_forever()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(200 if self.path in ("/health", "/healthcheck") else 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._answer(200 if self.path == "/v1/completions" and body["prompt"] and body["max_tokens"] == 1 else 404)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
