"""A browser for the pages of reports."""

import pytest

from tests.support import chromium


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A tab of headless Chromium; tests skip without it."""
    program = chromium.find()
    if program is None:
        pytest.skip("Chromium is not installed")
    with chromium.Browser(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser
