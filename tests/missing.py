"""What a test cannot do without and this machine does not have: on CI the test fails, elsewhere it is skipped.

It must never install anything.
"""

import os
import shutil
from importlib.util import find_spec
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Ends the test, or the import of its module, saying what is missing."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what, allow_module_level=True)


def need(program: str, package: str) -> str:
    """The path of a program."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return found or missing(f"{program} is not installed: apt install {package}")


def need_module(name: str, target: str) -> None:
    """A Python module that this target of the Makefile installs."""
    if find_spec(name) is None:
        missing(f"{name} is not installed: make {target}")


def need_root(why: str) -> None:
    """Nothing, for root. `@pytest.mark.root(why)` asks for it before the test's fixtures."""
    if os.geteuid() != 0:
        missing(f"{why}: run the tests as root")
