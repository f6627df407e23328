"""Arcade's tools for E2B, called as its worker calls them."""

import json
import os

from arcade_core.schema import ToolContext, ToolSecretItem
from arcade_e2b.tools import create_static_matplotlib_chart, run_code
from arcade_mcp_server import Context

secret = ToolSecretItem(key="E2B_API_KEY", value=os.environ["E2B_API_KEY"])
context = Context.__new__(Context)
ToolContext.__init__(context, secrets=[secret])
assert json.loads(run_code(context, "6 * 7"))["results"][0]["text"] == "42"
chart = create_static_matplotlib_chart(context, "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
assert chart["base64_image"], chart
