"""`python -m gpt2kit` is the command line."""

import sys

from gpt2kit.cli.main import process

sys.exit(process())
