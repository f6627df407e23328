"""Chromium starts as the ordinary user of a sandbox and reads a page. Not part of ./test: the first run builds a template of 300 MB.

eval "$(sandpit env)"; python tests/programs/chromium.py
"""

from __future__ import annotations

import sys
import time

from e2b import CommandExitException, Sandbox, Template

NAME = "programs-chromium"
INSTALL = "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium"
PAGE = "<h1>hi</h1><script>document.title = String(6 * 7)</script>"
READ = "chromium --headless --no-sandbox --disable-gpu --dump-dom file:///tmp/page.html 2>/dev/null"


def main() -> None:
    """Exits with 1, and what Chromium ended with, unless it shows the page."""
    if not Template.exists(NAME):
        template = Template().from_template("base").set_user("root").run_cmd(INSTALL).set_user("user")
        Template.build(template, NAME, memory_mb=2048)
    with Sandbox.create(NAME, timeout=180) as sandbox:
        sandbox.files.write("/tmp/page.html", PAGE)
        begun = time.monotonic()
        try:
            shown = sandbox.commands.run(READ, timeout=120).stdout
        except CommandExitException as error:
            sys.exit(f"chromium ended with {error.exit_code}")
        if "<title>42</title>" not in shown:
            sys.exit(f"chromium showed {shown[:200]!r}")
        print(f"chromium read a page in {time.monotonic() - begun:.1f} s")


if __name__ == "__main__":
    main()
