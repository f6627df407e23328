"""HTTP on every address, and a name server for the names given: `outside_server.py PORT ADDRESS NAME=ADDRESS ...`.

Names that begin with `slow` are never answered.
"""

from __future__ import annotations

import json
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dns.message
import dns.rcode
import dns.rrset

peers: set[str] = set()
asked: list[str] = []
names = dict(argument.split("=") for argument in sys.argv[3:])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"outside"
        if self.path == "/peers":
            body = json.dumps(sorted(peers)).encode()
            peers.clear()
        elif self.path == "/asked":
            body = json.dumps(asked).encode()
            asked.clear()
        else:
            peers.add(self.client_address[0])
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


class Resolver(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        name = query.question[0].name.to_text(omit_final_dot=True).lower()
        asked.append(f"{name}/{query.question[0].rdtype:d}")
        if name.startswith("slow"):
            return
        if name not in names:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif query.question[0].rdtype == 1:
            answer.answer.append(dns.rrset.from_text(name + ".", 60, "IN", "A", names[name]))
        sock.sendto(answer.to_wire(), self.client_address)


servers = [
    ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler),
    socketserver.ThreadingUDPServer((sys.argv[2], 53), Resolver),
]
for server in servers:
    threading.Thread(target=server.serve_forever).start()
print("ready", flush=True)
