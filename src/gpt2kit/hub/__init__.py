"""Model names and the hub behind them: download.py fetches, upload.py publishes."""

from gpt2kit.hub.download import resolve_folder
from gpt2kit.hub.upload import push_files, push_saved

__all__ = ["push_files", "push_saved", "resolve_folder"]
