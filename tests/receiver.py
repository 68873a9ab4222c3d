"""The other end of a webhook, as a process of its own: `python receiver.py` prints its port, notes down what it gets and answers as told.

POST /hook: a delivery. POST /control: {"status": 500, "delay": 0.05, "together": 3, "hold": true}; `together`: nobody is answered before
so many are there at once; `hold`: nobody is answered until it is taken back. GET /log: what came, with begin and end.
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LIMIT = 30  # seconds that anything waits


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/control":
            with server.changed:
                server.rules = {**server.rules, **json.loads(body)}
                server.changed.notify_all()
            return self._answer(204)
        entry = {"begin": time.monotonic(), "end": None, "headers": dict(self.headers), "body": body.decode()}
        with server.changed:
            server.log.append(entry)
            server.inside += 1
            server.most = max(server.most, server.inside)
            server.changed.notify_all()
            if server.rules["together"]:
                server.changed.wait_for(lambda: server.most >= server.rules["together"], LIMIT)
            server.changed.wait_for(lambda: not server.rules["hold"], LIMIT)
            rules = dict(server.rules)
        time.sleep(rules["delay"])
        with server.changed:
            server.inside -= 1
            entry["end"] = time.monotonic()
        return self._answer(rules["status"], rules["location"])

    def do_GET(self):
        with self.server.changed:
            body = json.dumps({"log": self.server.log, "most": self.server.most}).encode()
        self._answer(200, "", body)

    def _answer(self, status, location="", body=b""):
        try:
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # the caller has gone
            pass

    def log_message(self, *args):
        pass


class Receiver(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        self.changed = threading.Condition()
        self.log, self.inside, self.most = [], 0, 0
        self.rules = {"status": 204, "delay": 0, "together": 0, "hold": False, "location": ""}
        super().__init__(("127.0.0.1", 0), Handler)


if __name__ == "__main__":
    receiver = Receiver()
    sys.stdout.write(f"{receiver.server_port}\n")
    sys.stdout.flush()
    receiver.serve_forever()
