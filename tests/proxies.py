"""The proxies of docs/deploy/, run from the very files that the documentation shows.

Only what belongs to a machine is changed in them: ports, paths, users, and times that are too long
for a test.
"""

from __future__ import annotations

import os
import shutil
import signal
import ssl
from abc import ABC, abstractmethod
from pathlib import Path

import trustme

from tests.processes import ROOT, Process, accepts, free_port

DEPLOY = ROOT / "docs" / "deploy"
HOST = "127.0.0.1"
UPSTREAM = "127.0.0.1:8000"
MODULES = Path("/usr/lib/apache2/modules")


def changed(text, changes):
    """Replace each key by its value, everywhere. A key that is not there is an error."""
    for old, new in changes.items():
        assert old in text, f"the file of the documentation has no {old!r}"
        text = text.replace(old, str(new))
    return text


class Certificate:
    """One for the loopback address, as files and as the context of a client that trusts it."""

    def __init__(self, directory):
        authority = trustme.CA()
        issued = authority.issue_cert(HOST)
        self.chain, self.key = directory / "chain.pem", directory / "key.pem"
        self.both, self.authority = directory / "both.pem", directory / "authority.pem"
        authority.cert_pem.write_to_path(self.authority)
        issued.private_key_and_cert_chain_pem.write_to_path(self.both)
        issued.private_key_pem.write_to_path(self.key)
        for part in issued.cert_chain_pems:
            part.write_to_path(self.chain, append=True)
        self.context = ssl.create_default_context()
        authority.configure_trust(self.context)


class Proxy(Process, ABC):
    """One of them, in front of ``upstream``. ``changes`` are made in the file, too."""

    binary: str
    file: str
    #: What to replace for a shorter patience with a server that is silent.
    patience: dict[str, str]
    #: What to replace for a shorter wait for a server that is away.
    haste: dict[str, str] = {}
    #: What to replace so that streams are offered for compression, as everything is.
    compress_all: dict[str, str]

    def __init__(self, directory, certificate, upstream, changes=()):
        self.directory, self.certificate = directory, certificate
        self.port, self.plain_port = free_port(), free_port()
        self.url = f"https://{HOST}:{self.port}"
        text = (DEPLOY / self.file).read_text()
        text = changed(text, {UPSTREAM: f"{HOST}:{upstream}", **self.local(), **dict(changes)})
        self.path = directory / self.file
        self.path.write_text(text)
        super().__init__(self.command(), log=directory / f"{self.binary}.log", env=self.env())
        try:
            self.wait_for(lambda: accepts(self.port), self.binary)
        except BaseException:
            self.stop()
            raise

    @classmethod
    def program(cls):
        """Return the path of the program, or ``None``."""
        return shutil.which(cls.binary, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")

    @abstractmethod
    def local(self):
        """Return what this machine needs otherwise."""

    @abstractmethod
    def command(self):
        """Return what starts it."""

    def env(self):
        return {}


class Nginx(Proxy):
    binary = "nginx"
    file = "nginx.conf"
    patience = {"proxy_read_timeout 60s": "proxy_read_timeout 2s"}
    compress_all = {"gzip_types text/css application/javascript application/json;": "gzip_types *;"}

    def local(self):
        kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        paths = [f"{kind}_temp_path {self.directory}/{kind};" for kind in kinds]
        return {
            "user www-data;": "user root;" if os.geteuid() == 0 else "",
            "/run/nginx.pid": self.directory / "nginx.pid",
            "/var/log/nginx": self.directory,
            "http {\n": "\n".join(["http {", *paths, ""]),
            "listen 80;": f"listen {HOST}:{self.plain_port};",
            "listen 443 ": f"listen {HOST}:{self.port} ",
            "/etc/ssl/private/www.example.com.pem": self.certificate.chain,
            "/etc/ssl/private/www.example.com.key": self.certificate.key,
        }

    def command(self):
        return [
            self.program(),
            "-p",
            str(self.directory),
            "-c",
            str(self.path),
            "-g",
            "daemon off;",
        ]


class HAProxy(Proxy):
    binary = "haproxy"
    file = "haproxy.cfg"
    patience = {
        "timeout client 60s": "timeout client 2s",
        "timeout server 60s": "timeout server 2s",
    }
    compress_all = {"compression type text/html": "compression type text/event-stream"}
    haste = {"retries 15": "retries 1"}

    def local(self):
        return {
            "    user haproxy\n    group haproxy\n": "",
            "log /dev/log local0": "log stdout format raw local0",
            "maxconn 30000": "maxconn 1000",  # more takes more open files than are allowed here
            "bind :80": f"bind {HOST}:{self.plain_port}",
            "bind :443": f"bind {HOST}:{self.port}",
            "/etc/haproxy/www.example.com.pem": self.certificate.both,
        }

    def command(self):
        return [self.program(), "-db", "-f", str(self.path)]


class Caddy(Proxy):
    binary = "caddy"
    file = "Caddyfile"
    patience = {}
    compress_all = {}  # text/* is what it compresses
    haste = {"lb_try_duration 15s": "lb_try_duration 1s"}

    def local(self):
        tls = f"tls {self.certificate.chain} {self.certificate.key}"
        site = f"{self.url} {{\n\tbind {HOST}\n\t{tls}\n"
        # Without HTTP/3: free_port() holds the UDP port of the same number.
        options = ["admin off", "auto_https off", "servers {", "protocols h1 h2", "}"]
        return {"www.example.com {\n": "\n".join(["{", *options, "}", site])}

    def command(self):
        return [self.program(), "run", "--adapter=caddyfile", f"--config={self.path}"]

    def env(self):
        names = ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"]
        return dict.fromkeys(names, str(self.directory))


class Apache(Proxy):
    binary = "apache2"
    file = "apache.conf"
    patience = {"timeout=60": "timeout=2"}
    compress_all = {
        "AddOutputFilterByType DEFLATE text/html text/css application/javascript "
        "application/json": "SetOutputFilter DEFLATE"
    }

    def local(self):
        return {
            "<VirtualHost *:80>": f"<VirtualHost {HOST}:{self.plain_port}>",
            "<VirtualHost *:443>": f"<VirtualHost {HOST}:{self.port}>",
            "/etc/ssl/private/www.example.com.pem": self.certificate.chain,
            "/etc/ssl/private/www.example.com.key": self.certificate.key,
            "/etc/apache2/sites-available/again.asis": DEPLOY / "again.asis",
        }

    def command(self):
        """What Debian's own apache2.conf does, as far as the site needs it."""
        modules = [
            "mpm_event", "authz_core", "alias", "setenvif", "socache_shmcb", "filter",
            "proxy", "proxy_http", "ssl", "http2", "headers", "deflate", "asis",
        ]  # fmt: skip
        main = self.directory / "apache2.conf"
        lines = [
            f"ServerRoot {self.directory}",
            f"DefaultRuntimeDir {self.directory}",
            f"PidFile {self.directory}/apache2.pid",
            f"ErrorLog {self.directory}/error.log",
            f"ServerName {HOST}",
            *(f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in modules),
            *(["User www-data", "Group www-data"] if os.geteuid() == 0 else []),
            f"Listen {HOST}:{self.plain_port}",
            f"Listen {HOST}:{self.port} https",
            f"Include {self.path}",
        ]
        main.write_text("\n".join(lines) + "\n")
        return [self.program(), "-D", "FOREGROUND", "-f", str(main)]

    def kill(self):
        """End its children, too, which do not notice that it has gone."""
        os.killpg(self.pid, signal.SIGKILL)  # they are in a session of their own
        super().kill()


KINDS = [Nginx, HAProxy, Caddy, Apache]
