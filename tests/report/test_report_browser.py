"""The page in a real browser, where there is one: nothing on the console, nothing wider than the window."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from synthetic_run import finished_run

from illada.report.page import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
PROBE = """<script>
const wide = [...document.querySelectorAll('main *, header *')].filter(e => !e.closest('.scroll, nav, svg, pre')
  && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1);
const curves = document.querySelectorAll('svg.chart path.curve').length;
document.title = `probe ${document.documentElement.scrollWidth - document.documentElement.clientWidth} `
  + `${wide.length} ${curves} ${wide.map(e => e.className || e.tagName)}`;
</script></body>"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH")]


@pytest.mark.parametrize("width", [1280, 420])
@pytest.mark.parametrize("hostile", [False, True])
def test_page_renders_without_a_word_on_the_console(tmp_path: Path, width: int, hostile: bool) -> None:
    page = tmp_path / "report.html"
    write_report(finished_run(tmp_path, hostile=hostile), page)
    picture = tmp_path / f"report-{width}.png"
    log = _chromium(tmp_path, page, f"--window-size={width},5000", f"--screenshot={picture}").stderr
    assert not re.findall(r".*CONSOLE.*", log)
    header = picture.read_bytes()[:24]
    assert struct.unpack(">II", header[16:24]) == (width, 5000)
    assert picture.stat().st_size > 150_000  # not a blank page


@pytest.mark.parametrize("width", [1280, 700, 420])
def test_nothing_is_wider_than_the_window(tmp_path: Path, width: int) -> None:
    page = tmp_path / "report.html"
    write_report(finished_run(tmp_path, hostile=True), page)
    html = page.read_text(encoding="utf-8").replace("<details", "<details open")
    page.write_text(POLICY.sub("", html).replace("</body>", PROBE), encoding="utf-8")
    dom = _chromium(tmp_path, page, f"--window-size={width},900", "--dump-dom").stdout
    title = re.search(r"<title>probe (\S+) (\d+) (\d+) (.*?)</title>", dom)
    assert title is not None, dom[:500]
    assert (title[1], title[2]) == ("0", "0"), title[4]
    tenths = 10  # of t: cross-entropy and loss by noise level have a curve each
    assert int(title[3]) == 2 * (2 + 2 * tenths + 1 + 2 + 2)


def _chromium(folder: Path, page: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    common = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    return subprocess.run(
        [BROWSER, *common, f"--user-data-dir={folder / 'profile'}", *arguments, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
