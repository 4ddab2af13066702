"""What is missing is never overlooked on CI, and elsewhere it is told."""

import os

import pytest

from tests.conftest import pytest_runtest_setup
from tests.missing import need


def test_a_missing_program_fails_on_ci_and_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt install no-such-package"):
        need("no-such-program", "no-such-package")


def test_a_missing_program_is_a_skip_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt install no-such-package"):
        need("no-such-program", "no-such-package")


@pytest.mark.parametrize(("ci", "ended"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_root_a_marked_test_fails_on_ci_and_is_a_skip_elsewhere(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, ci: str, ended: type[BaseException]
) -> None:
    request.node.add_marker(pytest.mark.root("a network is made"))
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ended, match="a network is made: run the tests as root"):
        pytest_runtest_setup(request.node)
