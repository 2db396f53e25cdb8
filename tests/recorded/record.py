"""Runs small apps of real stacks against a real Postgres and records what their SDKs export.

    python record.py                 every stack
    python record.py django-psycopg  one

Each stack is a folder with `setup.sh`, `run.sh` and a source. A recording is the OTLP requests as
they came, one behind the other (that is a valid request again), less what tells about the machine.
"""

import http.client
import http.server
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import zstandard
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

HERE = pathlib.Path(__file__).resolve().parent
# Installed packages stay here between recordings.
WORK = pathlib.Path(os.environ.get("RECORDED_WORK", "/tmp/recorded"))

# What is asked of every app, in this order; an app that has no such endpoint answers 404, and that
# is recorded, too. The first request of all pays for the first connection.
REQUESTS = [
    ("GET", "/about"),
    ("GET", "/about"),
    ("GET", "/posts/lazy"),
    ("GET", "/posts/gather"),
    ("GET", "/posts/eager"),
    ("GET", "/posts/page?page=2"),
    ("GET", "/posts/export"),
    ("POST", "/visits/rows"),
    ("POST", "/visits/bulk"),
    ("GET", "/report"),
    ("POST", "/orders/log-sync"),
    ("POST", "/orders/log-async"),
    ("GET", "/prices/each"),
    ("GET", "/prices/batch"),
    ("GET", "/connect"),
]

# Apps that compile or warm up listen late.
LISTENS_WITHIN_S = 180
REQUEST_S_MAX = 60
# Traces are exported in the background, at least once in this time; not every server that is told
# to end exports the last ones, or ends.
EXPORT_MS_MAX = 500
QUIET_S = 2
ENDS_WITHIN_S = 5

NEUTRAL = "recorded"
# Resource attributes about the machine and the process: kept, because real traces have them.
MACHINE = ("host.", "process.", "os.", "container.", "service.instance.id", "telemetry.distro.version")


class Handler(http.server.BaseHTTPRequestHandler):
    """Keeps connections, as services do."""

    protocol_version = "HTTP/1.1"
    # Head and body leave in one packet; two would wait for each other.
    wbufsize = 65536
    disable_nagle_algorithm = True

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, status, content_type, body):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Stub(Handler):
    """The services around the app: a shop's prices, and a Loki that takes its time."""

    def do_GET(self):
        self.body()
        batch = "?" in self.path
        time.sleep(0.008 if batch else 0.005)
        self.answer(200, "application/json", b"[]" if batch else b'{"price": 17}')

    def do_POST(self):
        self.body()
        if self.path == "/loki/api/v1/push":
            time.sleep(0.04)
        self.answer(200, "application/json", b"{}")


class Receiver(Handler):
    """OTLP/HTTP with protobuf; the SDKs are told not to compress."""

    def do_POST(self):
        body = self.body()
        if self.path == "/v1/traces":
            self.server.requests.append(body)
        self.answer(200, "application/x-protobuf", ExportTraceServiceResponse().SerializeToString())


def serve(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.requests = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, server.server_address[1]


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def postgres_bin():
    named = os.environ.get("CULPRIT_PG_BIN")
    folders = [pathlib.Path(named)] if named else sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1]


class Postgres:
    """A server of its own; as the user `postgres` where this runs as root, whom Postgres refuses."""

    def __enter__(self):
        self.directory = tempfile.mkdtemp()
        as_user = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.directory, user.pw_uid, user.pw_gid)
            as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        data, self.port = f"{self.directory}/data", free_port()
        bin = postgres_bin()
        initdb = [bin / "initdb", "-U", "shop", "--auth=trust", "-E", "UTF8", "--no-sync", "-D", data]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd="/", **as_user)
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
        server = [bin / "postgres", "-D", data, *(it for s in settings for it in ("-c", s))]
        self.process = subprocess.Popen(server, stderr=subprocess.DEVNULL, cwd="/", **as_user)
        wait_for_port(self.port, self.process)
        self.psql = [bin / "psql", "-qX", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port), "-U", "shop"]
        return self

    def new_database(self):
        for database, arguments in [
            ("template1", ["-c", "drop database if exists shop", "-c", "create database shop"]),
            ("shop", ["-f", str(HERE / "schema.sql")]),
        ]:
            for attempt in range(50):
                # The server accepts connections a moment after it listens.
                if subprocess.run([*self.psql, "-d", database, *arguments]).returncode == 0:
                    break
                time.sleep(0.1)
            else:
                sys.exit("the database cannot be made")
        return f"postgresql://shop@127.0.0.1:{self.port}/shop"

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()
        shutil.rmtree(self.directory)


def wait_for_port(port, process):
    deadline = time.monotonic() + LISTENS_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as it:
            if it.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    sys.exit(f"nothing listens on {port}")


def end(process):
    process.terminate()
    try:
        process.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ask(port):
    for method, path in REQUESTS:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_S_MAX)
        connection.request(method, path, headers={"User-Agent": "recorder"})
        response = connection.getresponse()
        response.read()
        print(f"  {method} {path} {response.status}")
        connection.close()


def neutral_resource(resource):
    for it in resource.attributes:
        if not it.key.startswith(MACHINE):
            continue
        kind = it.value.WhichOneof("value")
        if kind == "string_value":
            it.value.string_value = NEUTRAL
        elif kind == "int_value":
            it.value.int_value = 1
        elif kind == "array_value":
            for value in it.value.array_value.values:
                value.string_value = NEUTRAL


def neutral_text(message, places):
    """Makes paths below the app's folder relative to it, in every text of `message`."""
    for field, value in message.ListFields():
        repeated = isinstance(value, (list, tuple)) or hasattr(value, "add") or hasattr(value, "append")
        if field.type == field.TYPE_MESSAGE:
            for it in value if repeated else [value]:
                neutral_text(it, places)
        elif field.type == field.TYPE_STRING and not repeated:
            for place in places:
                value = value.replace(place, "")
            setattr(message, field.name, value)


def neutral(body, places):
    request = ExportTraceServiceRequest.FromString(body)
    for it in request.resource_spans:
        neutral_resource(it.resource)
    neutral_text(request, places)
    return request.SerializeToString()


def record(stack, postgres, stub_port):
    print(stack)
    folder = WORK / stack
    for it in (stack, "shared"):
        shutil.copytree(HERE / it, WORK / it, dirs_exist_ok=True)
    receiver, receiver_port = serve(Receiver)
    port = free_port()
    environment = {
        **os.environ,
        "PORT": str(port),
        "DATABASE_URL": postgres.new_database(),
        "STUB_URL": f"http://127.0.0.1:{stub_port}",
        "OTEL_SERVICE_NAME": stack,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver_port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        # No questions to clouds about where this runs.
        "OTEL_NODE_RESOURCE_DETECTORS": "env,host,os,process",
        "OTEL_BSP_SCHEDULE_DELAY": str(EXPORT_MS_MAX),
    }
    subprocess.run(["sh", "setup.sh"], cwd=folder, env=environment, check=True)
    app = subprocess.Popen(["sh", "run.sh"], cwd=folder, env=environment)
    try:
        wait_for_port(port, app)
        ask(port)
        time.sleep(QUIET_S)
    finally:
        end(app)
    receiver.shutdown()
    places = [f"{folder}/", str(folder), f"{os.path.expanduser('~')}/"]
    recording = b"".join(neutral(it, places) for it in receiver.requests)
    spans = sum(
        len(scope.spans)
        for resource in ExportTraceServiceRequest.FromString(recording).resource_spans
        for scope in resource.scope_spans
    )
    packed = zstandard.ZstdCompressor(level=19).compress(recording)
    (HERE / stack / "recording.pb.zst").write_bytes(packed)
    print(f"  {spans} spans, {len(packed)} bytes")


def main():
    stacks = sys.argv[1:] or sorted(it.parent.name for it in HERE.glob("*/run.sh"))
    _, stub_port = serve(Stub)
    with Postgres() as postgres:
        for stack in stacks:
            record(stack, postgres, stub_port)


if __name__ == "__main__":
    main()
