#!/usr/bin/env python3
# limit: 180
# once
# kvm: none
"""The documentation's pages in a browser: nothing is wider than a phone, dark is dark, on paper there is only the text."""
import os
import pathlib
import shutil
import subprocess
import sys

import labs_browser

SRC, TMP = pathlib.Path(os.environ["SRC"]), pathlib.Path(os.environ["TMP"])


def check(ok, text, *details):
    if not ok:
        print("FAILED:", text, *map(repr, details))
        sys.exit(1)
    print("ok  ", text)


for program in ("pandoc", "mandoc"):
    if not shutil.which(program):
        print(f"{program} is not installed; tests/deps docs installs it")
        sys.exit(77)
labs_browser.find()
site = TMP / "site"
subprocess.run([SRC / "docs/site/build", site, "test"], check=True, timeout=120)
pages = sorted(site.rglob("*.html"))
with labs_browser.Browser(TMP) as browser:
    for page in pages:
        name = page.relative_to(site)
        browser.size(380)
        browser.open(page)
        wide = browser.js("document.documentElement.scrollWidth")
        check(wide <= 380, f"{name} fits a phone", wide)
        check(not browser.complaints(), f"{name}: no complaint", browser.complaints())
        check(browser.js("[...document.images].every(i => i.complete && i.naturalWidth > 0)"), f"{name}: its pictures are there")
        check(browser.js("document.querySelectorAll('h1').length") == 1, f"{name}: one title")
    browser.size(1280)
    ground = "getComputedStyle(document.body).backgroundColor"
    browser.media(prefers_color_scheme="light")
    light = browser.js(ground)
    browser.media(prefers_color_scheme="dark")
    check(browser.js(ground) != light, "dark is dark")
    browser.media(media="print")
    check(browser.js("getComputedStyle(document.querySelector('.pages')).display") == "none", "no list of pages on paper")
