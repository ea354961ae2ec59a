"""Copy the test suite to where the package's source is not, and check what is installed.

    python tools/copy_suite.py CHECKOUT TARGET

Run by tox in each environment. Fails if ``flosse_bus`` is imported from anywhere else than
site-packages, or if Django is not the version that ``EXPECTED_DJANGO`` names (installing another
dependency may have changed it).
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import django

import flosse_bus

SUITE = ("tests", "testproject")
IGNORED = shutil.ignore_patterns("__pycache__", "*.sqlite3*")


def main(checkout: Path, target: Path) -> None:
    for name in SUITE:
        shutil.rmtree(target / name, ignore_errors=True)
        shutil.copytree(checkout / name, target / name, ignore=IGNORED)
    shutil.copy(checkout / "pyproject.toml", target)
    check_package()
    check_django()


def check_package() -> None:
    package = Path(flosse_bus.__file__).resolve().parent
    installed = Path(sysconfig.get_path("purelib")).resolve()
    if package.parent != installed:
        sys.exit(f"flosse_bus is imported from {package}, not from {installed}.")
    if not (package / "py.typed").is_file():
        sys.exit(f"{package}: the wheel lacks py.typed.")


def check_django() -> None:
    expected = os.environ.get("EXPECTED_DJANGO")
    if expected and django.get_version().split(".")[:2] != expected.split("."):
        sys.exit(f"Django is {django.get_version()}, not {expected}.")
    print(f"Python {sys.version.split()[0]}, Django {django.get_version()}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
