"""Check the types and shapes in dnrlib's signatures during tests; one thread a process."""

import os

import pytest
import torch
from beartype import BeartypeConf, beartype
from hypothesis import settings
from jaxtyping import install_import_hook

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
install_import_hook("dnrlib", "conftest.checked")

settings.register_profile("dnr", deadline=None, derandomize=True, database=None)
settings.load_profile("dnr")

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def chromium():
    """Chromium is there; everywhere but in CI tests that need it are skipped without it."""
    from dnrlib.book import browser
    from dnrlib.errors import ConfigError

    if not os.environ.get("CI"):
        pytest.importorskip("playwright")
        try:
            browser.chromium()
        except ConfigError as error:
            pytest.skip(str(error))


# while it is open, an event loop runs, which other files' tests may not expect
@pytest.fixture(scope="module")
def browser(chromium):
    """A headless Chromium."""
    from dnrlib.book.browser import open_browser

    with open_browser() as opened:
        yield opened
