"""The page: a file a tab in `tabs/`, found by itself. Nothing else in golden imports this package, or gradio."""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio: the page talks to its own server only
