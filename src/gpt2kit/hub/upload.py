"""push_to_hub: files of a folder become one commit of a repository, through huggingface_hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from gpt2kit.errors import HubError


def push_saved(save: Callable[[Path], Iterable[str | os.PathLike[str]]], repo_id: str, **options: Any) -> Any:
    """Publish what `save` writes into an empty folder and lists; options as for push_files."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        files = list(save(Path(folder)))
        return push_files(folder, files, repo_id, **options)


def push_files(
    folder: str | os.PathLike[str],
    files: Iterable[str | os.PathLike[str]],
    repo_id: str | None = None,
    *,
    commit_message: str,
    commit_description: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: Sequence[str] | None = None,
) -> Any:
    """Publish files of a folder as one commit and give huggingface_hub's CommitInfo.

    The repository (by default named like the folder, in the caller's namespace) is made if it is not there,
    private or not; so is the branch `revision`. With `create_pr` the commit is proposed and not merged. tags
    are added to the repository's README.md.

    Raises HubError.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    folder = Path(folder)
    name = repo_id or folder.resolve().name
    api = HfApi(token=token)
    try:
        name = api.create_repo(name, private=private, exist_ok=True).repo_id
        contents: dict[str, Any] = {}
        for file in files:
            path = folder / file
            contents[path.relative_to(folder).as_posix()] = path
        if tags:
            contents["README.md"] = _card_with_tags(api, name, tags).encode()
        if revision is not None and not revision.startswith("refs/pr/"):
            api.create_branch(name, branch=revision, exist_ok=True)
        return api.create_commit(
            name,
            [CommitOperationAdd(path, content) for path, content in contents.items()],
            commit_message=commit_message,
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise HubError(
                f"the hub does not let you write to {name!r} ({status}); log in, pass token=, or name a "
                "repository of your own"
            ) from error
        raise HubError(f"the hub refuses to take {name!r} ({status}): {_one_line(error)}") from error
    except HFValidationError as error:
        raise HubError(f"{name!r} cannot be the name of a repository: {_one_line(error)}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise HubError(f"{name!r} was not pushed: {type(error).__name__}: {_one_line(error)}") from error


def _card_with_tags(api: Any, name: str, tags: Sequence[str]) -> str:
    """Give the repository's model card, or a new one, with some tags added."""
    from huggingface_hub import ModelCard, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = hf_hub_download(name, "README.md", endpoint=api.endpoint, token=api.token)
        card = ModelCard(Path(path).read_text(encoding="utf-8"))
    except EntryNotFoundError:
        card = ModelCard("---\nlibrary_name: transformers\n---\n")
    known = list(card.data.get("tags") or [])
    card.data["tags"] = known + [tag for tag in tags if tag not in known]
    return str(card)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
