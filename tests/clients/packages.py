"""The npm packages of package.json, installed outside the repository's files."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.processes import ROOT

HERE = Path(__file__).parent
#: The oldest node that all of them run on. Debian 12 has an older one.
OLDEST = (20, 18, 1)


class Missing(Exception):
    """What is needed is not on this machine."""


def install():
    """Return the directory that has them in ``node_modules``; install them if they are not there.

    Raises:
        Missing: there is no node or npm, or it could not install them.
    """
    return _installed(HERE)


def version(packages, name):
    """Return the version of a package that is installed."""
    return json.loads((packages / name / "package.json").read_text())["version"]


@functools.cache
def node():
    """Return the path of a node that they run on: the system's, or else one from npm.

    Raises:
        Missing: there is no node, or it is too old and npm could not bring another.
    """
    system = shutil.which("node")
    if system is None:
        raise Missing("no node on this machine")
    told = subprocess.run([system, "--version"], capture_output=True, text=True, check=False)
    if tuple(map(int, re.findall(r"\d+", told.stdout)[:3])) >= OLDEST:
        return system
    # One for each kind of machine is listed, and npm installs that of this one.
    found = next(_installed(HERE / "node").glob("node-*/bin/node"), None)
    if found is None:
        raise Missing(f"node is {told.stdout.strip()}, and npm has no newer one for this machine")
    return str(found)


def environment():
    """Return what node's environment must have: nothing that changes how it connects."""
    proxies = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NODE_OPTIONS", "NODE_USE_ENV_PROXY"}
    return {name: "" for name in proxies if name in os.environ}


def _installed(folder):
    """Have npm install what a folder's package.json lists, unless it is in the cache already."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise Missing(f"no {program} on this machine")
    listed = [folder / "package.json", folder / "package-lock.json"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in listed)).hexdigest()[:12]
    directory = ROOT / ".cache" / f"{folder.name}-{digest}"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be at it
        if not (directory / "installed").exists():
            for path in listed:
                shutil.copy(path, directory)
            done = subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=directory,
                timeout=300, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise Missing(f"npm could not install the {folder.name}: {done.stderr[-500:]}")
            (directory / "installed").touch()
    return directory / "node_modules"
