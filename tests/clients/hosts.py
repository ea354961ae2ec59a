"""The programs in which the clients run, and their versions."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path

from tests.browsers import executable, launch
from tests.clients import packages
from tests.processes import Process

DRIVERS = Path(__file__).with_name("drivers")
#: Debian's, which has the bindings: no other Python can import them.
SYSTEM_PYTHON = "/usr/bin/python3"
PROBE = (
    "import gi; gi.require_version('Gtk', '3.0'); gi.require_version('WebKit2', '4.1'); "
    "from gi.repository import WebKit2 as w; "
    "print(w.get_major_version(), w.get_minor_version(), w.get_micro_version(), sep='.')"
)
CHROMIUM = [
    "--ignore-certificate-errors", "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows",
]  # fmt: skip
HOSTS = ("chromium", "firefox", "webkit", "node", "python")


class Screen(Process):
    """A program on a screen of its own: ``xvfb-run`` leaves both when it is ended."""

    def stop(self, *args, **kwargs):
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)  # they are in a session of their own
        return super().stop(*args, **kwargs)


def webkit_version():
    """Return WebKitGTK's version, or ``None``."""
    if shutil.which("xvfb-run") is None or not Path(SYSTEM_PYTHON).exists():
        return None
    done = subprocess.run([SYSTEM_PYTHON, "-c", PROBE], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def lacks(host):
    """Return why a host cannot run here, or ``None``."""
    if host in ("chromium", "firefox"):
        return None if executable(host) else f"no {host.capitalize()} on this machine"
    if host == "webkit":
        return (
            None if webkit_version() else "no WebKitGTK with its bindings and xvfb on this machine"
        )
    if host == "node":
        try:
            packages.node()
        except packages.Missing as reason:
            return str(reason)
    return None


def version(client, installed):
    """Return the version of what a client is."""
    if client.host in ("chromium", "firefox") and client.package is None:
        command = [executable(client.host), "--version"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return re.search(r"\d+[\d.]*", done.stdout)[0]
    if client.host == "webkit":
        return webkit_version()
    if client.host == "python":
        return importlib.metadata.version(client.package)
    found = packages.version(installed, client.package)
    if client.beside:
        found += f", {client.beside} {packages.version(installed, client.beside)}"
    return found


def start(host, desk, directory, installed, certificate, ports):
    """Start a host, and wait until it asks for orders.

    ``ports`` are those of its clients: Firefox is told that their certificate is good.
    """
    url = f"{desk.url}/{host}"
    if host in ("chromium", "firefox"):
        if host == "firefox":
            trust(directory, certificate, ports)
        options = CHROMIUM if host == "chromium" else []
        process = launch(host, url, directory, *options)
    elif host == "webkit":
        command = ["xvfb-run", "-a", SYSTEM_PYTHON, str(DRIVERS / "webkit.py"), url]
        env = {
            "HOME": str(directory), "WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1",
            "NO_AT_BRIDGE": "1", "DBUS_SESSION_BUS_ADDRESS": "disabled:", "GDK_BACKEND": "x11", "WEBKIT_DISABLE_COMPOSITING_MODE": "1",
        }  # fmt: skip
        process = Screen(command, log=directory / "webkit.log", env=env)
    elif host == "node":
        command = [packages.node(), str(DRIVERS / "node.mjs"), desk.url, str(installed)]
        env = {**packages.environment(), "NODE_EXTRA_CA_CERTS": str(certificate.authority)}
        process = Process(command, log=directory / "node.log", env=env)
    else:
        command = [sys.executable, str(DRIVERS / "libraries.py"), desk.url]
        env = {"COVERAGE_PROCESS_CONFIG": ""}
        process = Process(command, log=directory / "python.log", env=env)
    try:
        process.wait_for(lambda: host in desk.present, host)
    except BaseException:
        process.stop()
        raise
    return process


def trust(profile, certificate, ports):
    """Write what Firefox keeps when its user has accepted a certificate."""
    pem = certificate.chain.read_text()
    first = pem[: pem.index("-----END CERTIFICATE-----")] + "-----END CERTIFICATE-----\n"
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest().upper()
    fingerprint = ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))
    lines = [f"127.0.0.1:{port}:\tOID.2.16.840.1.101.3.4.2.1\t{fingerprint}\t" for port in ports]
    (profile / "cert_override.txt").write_text("\n".join(lines) + "\n")
