"""The npm packages of package.json, installed outside the repository's files."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

from tests.processes import ROOT

HERE = Path(__file__).parent
LISTED = [HERE / "package.json", HERE / "package-lock.json"]


class Missing(Exception):
    """What is needed is not on this machine."""


def install():
    """Return the directory that has them in ``node_modules``; install them if they are not there.

    Raises:
        Missing: there is no node or npm, or it could not install them.
    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise Missing(f"no {program} on this machine")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in LISTED)).hexdigest()[:12]
    cache = ROOT / ".cache"
    directory = cache / f"clients-{digest}"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be at it
        if not (directory / "installed").exists():
            for path in LISTED:
                shutil.copy(path, directory)
            done = subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=directory,
                timeout=300, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise Missing(f"npm could not install the clients: {done.stderr[-500:]}")
            (directory / "installed").touch()
    return directory / "node_modules"


def version(packages, name):
    """Return the version of a package that is installed."""
    return json.loads((packages / name / "package.json").read_text())["version"]


def node():
    """Return node's path and environment, without what would change how it connects."""
    proxies = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NODE_OPTIONS", "NODE_USE_ENV_PROXY"}
    return shutil.which("node"), {name: "" for name in proxies if name in os.environ}
