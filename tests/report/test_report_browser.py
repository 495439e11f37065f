"""The page in a real browser: it draws everything, complains of nothing, and fetches nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from image2point import report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),  # WebGL in software
    *("--window-size=1280,1000", "--virtual-time-budget=20000", "--dump-dom"),
)
# Set into a copy of the page: a policy that forbids every fetch, and a record of all complaints.
PROBE = """
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<script>
  const complaints = [];
  addEventListener("error", event => complaints.push(String(event.message)));
  addEventListener("unhandledrejection", event => complaints.push(String(event.reason)));
  document.addEventListener("securitypolicyviolation", event => complaints.push("fetch of " + event.blockedURI));
  for (const level of ["error", "warn"]) {
    const original = console[level];
    console[level] = (...words) => { complaints.push(words.join(" ")); original(...words); };
  }
</script>
"""
QUESTIONS = """
<script>
  setTimeout(() => {
    document.querySelector(".legend button").click();
    setTimeout(() => {
      const visible = arm => Object.keys(figures).flatMap(id => document.getElementById(id).data)
        .filter(trace => trace.meta && trace.meta.arm === arm).map(trace => trace.visible !== false);
      const result = document.createElement("pre");
      result.id = "result";
      result.textContent = JSON.stringify({complaints, first: visible(0), second: visible(1)});
      document.body.append(result);
    }, 1000);
  }, 8000);
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on PATH to look at the report with")
def test_in_the_browser(runs: list[Path], tmp_path: Path) -> None:
    page = report.build(runs, tmp_path / "report.html").read_text(encoding="utf-8")
    probed = tmp_path / "probed.html"
    page = page.replace("<head>", "<head>" + PROBE, 1)
    head, _, tail = page.rpartition("</body>")
    probed.write_text(f"{head}{QUESTIONS}</body>{tail}", encoding="utf-8")

    assert BROWSER is not None
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", probed.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout

    answer = re.search(r'<pre id="result">(.*?)</pre>', dom, re.DOTALL)
    assert answer is not None, "the page's script did not run to its end"
    result = json.loads(unescape(answer[1]))
    assert result["complaints"] == []
    plots = re.findall(r'<div class="plot[^>]* id="([^"]+)"', dom)
    names = {f"learning-{i}" for i in range(2)} | {f"collapse-{i}" for i in range(9)} | {f"cloud-{i}" for i in range(6)}
    assert set(plots) == names | {"per-class", "confusion-0", "confusion-1"}
    assert dom.count('<svg class="main-svg') >= len(plots)
    assert dom.count('class="trace scatter') == len(result["second"]) - 1  # but for the matrix
    assert dom.count("<canvas") >= 6
    assert dom.count('<img class="still" alt="" src="data:image/png') == 6
    # The click hid the first arm in every figure, and that arm alone.
    assert result["first"]
    assert not any(result["first"])
    assert len(result["second"]) == len(result["first"]) > 40
    assert all(result["second"])
