"""A browser for tests of pages."""

import shutil

import pytest


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
  names = ("chromium", "chromium-browser", "google-chrome")
  chromium = next(filter(None, map(shutil.which, names)), None)
  driver = shutil.which("chromedriver")
  if not chromium or not driver:
    pytest.skip("needs a browser: apt-get install chromium chromium-driver")
  from selenium import webdriver

  options = webdriver.ChromeOptions()
  options.binary_location = chromium
  for flag in (
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "disable-dev-shm-usage",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "window-size=1200,1000",
    f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
  ):
    options.add_argument(f"--{flag}")
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  # With both paths, selenium does not look for downloads.
  service = webdriver.ChromeService(driver)
  browser = webdriver.Chrome(options, service)
  browser.set_script_timeout(20)
  yield browser
  browser.quit()
