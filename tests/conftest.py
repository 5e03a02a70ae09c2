"""No test writes into the caches of whoever runs it."""

import os

os.environ["GPT2KIT_CACHE"] = "off"
