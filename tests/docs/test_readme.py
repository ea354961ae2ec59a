"""The README's quick start, pasted into a new project and used."""

from __future__ import annotations

import re
import subprocess
import sys

import httpx
import pytest
from httpx_sse import EventSource

from tests.processes import ROOT, Process, accepts, free_port

README = (ROOT / "README.md").read_text()
FILES = re.findall(r"^```py\n# (mysite/\w+\.py)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.server
def test_the_quick_start(tmp_path):
    assert [name for name, _ in FILES] == ["mysite/settings.py", "mysite/urls.py"]
    lines = [line for _, block in FILES for line in block.splitlines() if line.strip()]
    assert len(lines) <= 20
    subprocess.run(
        [sys.executable, "-m", "django", "startproject", "mysite"],
        cwd=tmp_path, check=True, timeout=60, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    project = tmp_path / "mysite"
    for name, block in FILES:
        with (project / name).open("a") as file:
            file.write(block)
    [(new, old)] = re.findall(
        r"^(from flosse_bus\.asgi import \w+)  # was: (.*)$", README, re.MULTILINE
    )
    asgi = project / "mysite" / "asgi.py"
    before = asgi.read_text()
    assert f"{old} import get_asgi_application" in before
    asgi.write_text(before.replace(f"{old} import get_asgi_application", new))
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "mysite.asgi:application", f"--port={port}"]
    env = {"DJANGO_SETTINGS_MODULE": "mysite.settings", "PYTHONPATH": f"{project}:{ROOT}"}
    url = f"http://127.0.0.1:{port}"
    with (
        Process(command, log=tmp_path / "log", cwd=project, env=env) as server,
        httpx.Client(timeout=20, trust_env=False) as http,
    ):
        server.wait_for(lambda: accepts(port), "uvicorn")
        assert "EventSource" in http.get(url).text
        with http.stream("GET", f"{url}/events/?topic=visits") as response:
            events = EventSource(response).iter_sse()
            next(events)  # the opening block
            assert http.get(f"{url}/visit/ada/").text == "published"
            assert next(event for event in events if event.data).json() == {"name": "ada"}


def test_the_picture_is_there():
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([\w./-]+)(?:#[\w-]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target
