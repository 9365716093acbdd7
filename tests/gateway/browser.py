"""A real browser, steered by a script of Node.js, looks at a gateway."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from pacspark.gateway.server import Gateway
from pacspark.gateway.web.viewer import viewer_folder
from tests.conftest import missing
from tests.servers import cache_folder

CHROMIUM = Path("/usr/bin/chromium")


def watched(gateway: Gateway, script: str, *arguments: str) -> dict[str, Any]:
    """Run a script beside this file; give what it saw, without any error of a page or request."""
    playwright = cache_folder() / "node" / "node_modules" / "playwright-core"
    node = shutil.which("node")
    if node is None or not CHROMIUM.exists() or not playwright.is_dir():
        missing("chromium")
    if not (viewer_folder() / "index.html").is_file():
        missing("ohif")
    assert gateway.web is not None
    done = subprocess.run(
        [str(node), str(Path(__file__).with_name(script)), str(playwright), str(CHROMIUM),
         f"http://127.0.0.1:{gateway.web.port}", *arguments],
        capture_output=True, text=True, check=True, timeout=500,
        env=os.environ | {"PATIENCE_MS": "200000"},
    )  # fmt: skip
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen["errors"] == []
    assert seen["failed"] == []  # no status of an error, no request to anywhere else
    return seen
