"""Chromium without a window, and the page in a process of its own, for tests of what a visitor sees."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
DRIVER = shutil.which('chromedriver')
PATIENCE = 600  # seconds: a machine may be busy with other things


@contextlib.contextmanager
def running_command(*args, folder):
    """Run ``timm-abn app`` in an empty folder, and yield the process and the address of its page."""
    code = 'import sys, timm_abn_cli; sys.exit(timm_abn_cli.entry_point())'
    environment = dict(os.environ, HOME=str(folder / 'home'), TMPDIR=str(folder / 'tmp'), HF_HUB_OFFLINE='1')
    for name in ('home', 'tmp', 'here'):
        (folder / name).mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, '-c', code, 'app', *map(str, args)],
        cwd=folder / 'here',
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith('The page is at http://127.0.0.1:'), line
        yield process, line.split()[4]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


@contextlib.contextmanager
def running_chromium(downloads):
    """Yield a browser that writes a log of its requests."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # the canvas is drawn by WebGL, here on the CPU; root, as in containers, has no sandbox
    for argument in ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--enable-unsafe-swiftshader'):
        options.add_argument(argument)
    options.add_argument('--window-size=1300,1400')
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL'})
    options.add_experimental_option('prefs', {'download.default_directory': str(downloads)})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(PATIENCE)
    driver.set_script_timeout(PATIENCE)
    try:
        yield driver
    finally:
        driver.quit()


def requested(driver):
    """Return the addresses that the browser has asked since the last call."""
    messages = [json.loads(entry['message'])['message'] for entry in driver.get_log('performance')]
    return [each['params']['request']['url'] for each in messages if each['method'] == 'Network.requestWillBeSent']


def slowness(seconds=0.3):
    """Return how many times longer than the processor takes things last here: 1 on a machine that is idle."""
    wall, cpu = time.perf_counter(), time.process_time()
    while time.process_time() - cpu < seconds:
        sum(range(1000))
    return max(1.0, (time.perf_counter() - wall) / seconds)
