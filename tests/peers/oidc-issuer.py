#!/usr/bin/env python3
"""An OpenID Connect provider for tests: discovery, and the refresh grant (OpenID Connect Core 1.0, section 12).

Usage: oidc-issuer.py FOLDER REFRESH_TOKEN

Serves HTTPS on a free port of loopback with FOLDER/issuer.crt and FOLDER/issuer.key, prints its URL, and gives
the content of FOLDER/token as the ID token to whoever has that refresh token.
"""

import http.server
import json
import pathlib
import ssl
import sys
import urllib.parse

folder, refresh_token = pathlib.Path(sys.argv[1]), sys.argv[2]


class Provider(http.server.BaseHTTPRequestHandler):
    def answer(self, status: int, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path == "/.well-known/openid-configuration":
            self.answer(200, {"issuer": url, "token_endpoint": f"{url}/token"})
        else:
            self.answer(404, {})

    def do_POST(self) -> None:
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        if self.path == "/token" and form.get("grant_type") == ["refresh_token"] and form.get("refresh_token") == [refresh_token]:
            self.answer(200, {"id_token": (folder / "token").read_text(), "refresh_token": refresh_token})
        else:
            self.answer(400, {"error": "invalid_grant"})

    def log_message(self, *_: object) -> None:
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(folder / "issuer.crt", folder / "issuer.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
url = f"https://127.0.0.1:{server.server_port}"
print(url, flush=True)
server.serve_forever()
