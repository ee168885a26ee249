"Debian's chromium, driven by PyPI's playwright: the fixture of the browser tests. Import it as `chromium`"
import shutil
import socket

import pytest

EXECUTABLE = shutil.which('chromium')
needed = pytest.mark.skipif(EXECUTABLE is None, reason='chromium is not here')
sync_api = pytest.importorskip('playwright.sync_api')
expect = sync_api.expect
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--disable-sync']


@pytest.fixture(scope='module')
def browser():
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=EXECUTABLE, args=FLAGS)
        yield browser
        browser.close()


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]
