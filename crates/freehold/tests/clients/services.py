"""The servers that unmodified clients in a pod talk to: an index for pip, a registry for npm, git, an echo, events; and,
where their packages are at hand, gRPC and WebSocket by the usual libraries.

Usage: services.py CERTIFICATE KEY FOLDER [WHEELS]. Prints one line of JSON, the ports, and ends with its standard input.
"""

import base64, hashlib, http.server, json, os, queue, ssl, subprocess, sys, threading, urllib.parse

certificate, key, folder = sys.argv[1:4]
wheels = sys.argv[4] if len(sys.argv) > 4 else None
packages = {}
acknowledged = queue.Queue()


def tls(*protocols):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, data, kind="application/json", status=200):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def serve(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if path.startswith("/git/"):
            return self.git(path)
        if path == "/events":
            return self.events()
        body = self.body()
        if path == "/acknowledge":
            acknowledged.put(body)
            return self.answer({})
        if path == "/bytes":
            size = int(urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)["size"][0])
            return self.answer(bytes(range(256)) * (size // 256), "application/octet-stream")
        if path == "/echo":
            return self.answer({
                "method": self.command, "target": self.path, "headers": [list(pair) for pair in self.headers.items()],
                "length": len(body), "sha256": hashlib.sha256(body).hexdigest(),
            })
        if path.startswith("/simple/"):
            return self.index(path.split("/")[2])
        if path.startswith("/wheels/"):
            with open(os.path.join(wheels, os.path.basename(path)), "rb") as file:
                return self.answer(file.read(), "application/octet-stream")
        self.registry(path[1:], body)

    do_GET = do_HEAD = do_POST = do_PUT = serve

    def index(self, project):
        names = [n for n in sorted(os.listdir(wheels)) if n.split("-")[0].lower().replace("_", "-") == project]
        links = "".join(f'<a href="/wheels/{name}">{name}</a>\n' for name in names)
        self.answer(f"<!DOCTYPE html><html><body>\n{links}</body></html>".encode(), "text/html", 200 if names else 404)

    def registry(self, name, body):
        if self.command == "PUT":
            packages[name] = json.loads(body)
            return self.answer({"ok": True}, status=201)
        name, _, tarball = name.partition("/-/")
        if name not in packages:
            return self.answer({"error": "not found"}, status=404)
        if tarball:
            attachment = next(iter(packages[name]["_attachments"].values()))
            return self.answer(base64.b64decode(attachment["data"]), "application/octet-stream")
        self.answer({key: value for key, value in packages[name].items() if key != "_attachments"})

    def events(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        # Each event waits until the one before has reached the client.
        for number in range(5):
            event = f"id: {number}\ndata: event {number}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.wfile.flush()
            acknowledged.get(timeout=20)
        self.wfile.write(b"0\r\n\r\n")

    def git(self, path):
        url = urllib.parse.urlsplit(self.path)
        environment = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": folder, "GIT_HTTP_EXPORT_ALL": "1", "REMOTE_USER": "agent",
            "PATH_INFO": path[4:], "QUERY_STRING": url.query, "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "REMOTE_ADDR": "127.0.0.1",
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
            "GIT_CONFIG_KEY_1": "http.receivepack", "GIT_CONFIG_VALUE_1": "true",
        }
        ran = subprocess.run(["git", "http-backend"], input=self.body(), env=environment, capture_output=True)
        head, _, body = ran.stdout.partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().split("\r\n") if line]
        status = next((int(value.split()[0]) for name, value in fields if name == "Status"), 200)
        self.send_response(status)
        for name, value in fields:
            if name != "Status":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Secure(http.server.ThreadingHTTPServer):
    def finish_request(self, request, address):
        # In the connection's own thread, so that a slow handshake holds up nobody.
        request = context.wrap_socket(request, server_side=True)
        super().finish_request(request, address)

    def handle_error(self, *_):
        pass


def serve_grpc():
    import grpc
    from concurrent import futures

    def fail(_, context):
        context.set_trailing_metadata((("x-why", "because"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")

    def meet(requests, context):
        context.set_trailing_metadata((("x-count", "three"),))
        for request in requests:
            yield request + b"!"

    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(lambda request, _: request),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Count": grpc.unary_stream_rpc_method_handler(lambda request, _: (request + b"%d" % n for n in range(100))),
        "Meet": grpc.stream_stream_rpc_method_handler(meet),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    pair = (open(key, "rb").read(), open(certificate, "rb").read())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    return server, port


def serve_websocket():
    from websockets.sync.server import serve

    def echo(connection):
        for message in connection:
            connection.send(message)

    server = serve(echo, "127.0.0.1", 0, ssl=tls("http/1.1"), max_size=None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.socket.getsockname()[1]


context = tls("http/1.1")
web = Secure(("127.0.0.1", 0), Web)
threading.Thread(target=web.serve_forever, daemon=True).start()
ports = {"web": web.server_address[1]}
try:
    grpc_server, ports["grpc"] = serve_grpc()
    ports["websocket"] = serve_websocket()
except ImportError:
    pass
print(json.dumps(ports), flush=True)
sys.stdin.read()
os._exit(0)
