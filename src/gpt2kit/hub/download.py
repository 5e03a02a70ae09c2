"""Model names: from `gpt2` or `openai-community/gpt2` to a local folder, through huggingface_hub's cache.

The cache folder, its layout and all environment variables (HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN,
HF_ENDPOINT, ...) are huggingface_hub's: what another tool has downloaded is found. Only the files that a
model needs are downloaded, safetensors rather than pickle. Every failure is one HubError that says what to
do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import cast

from gpt2kit.errors import HubError

# The four sizes (and the distilled one) are on the hub under two names each; the cache may hold either.
_SECOND_NAMES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}
_SECOND_NAMES |= {full: short for short, full in _SECOND_NAMES.items()}

_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve_folder(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    allow_patterns: Sequence[str] | None = None,
    allow_pickle: bool = False,
    skip_safetensors: bool = False,
    variant: str | None = None,
) -> Path:
    """Give the local folder of a model, downloading what is missing.

    A folder that exists is given back as it is (with `subfolder` appended). Anything else is a name on the
    hub: `allow_patterns` says which files to fetch; None means configuration, tokenizer and weights
    (safetensors, or .bin files when there are none and `allow_pickle`, or with `skip_safetensors`). `revision` is a branch, tag or
    commit; `token` a string, True for the stored one, or False for none. With `local_files_only`, or
    HF_HUB_OFFLINE=1, no request is made.
    A server that cannot be reached is no error when the cache has the files.

    Raises HubError.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise TypeError(f"a model is named by a str or a path; got {name_or_path!r:.80}")
    parts = _safe_parts(subfolder, "subfolder")
    path = Path(name_or_path)
    if path.is_dir():
        folder = path.joinpath(*parts)
        if not folder.is_dir():
            raise HubError(f"{folder} is not a folder; {path} has no subfolder {subfolder!r}")
        return folder
    name = os.fspath(name_or_path)
    if not isinstance(name_or_path, str) or _NAME.fullmatch(name) is None or ".." in name or path.exists():
        raise HubError(f"{name!r} is neither a folder that exists nor a name like 'openai-community/gpt2'")
    _safe_parts(revision, "revision")
    prefix = "".join(f"{part}/" for part in parts)

    def choose(files: Iterable[str]) -> list[str]:
        inside = [file.removeprefix(prefix) for file in files if file.startswith(prefix)]
        if allow_patterns is not None:
            chosen = [file for file in inside if any(fnmatchcase(file, p) for p in allow_patterns)]
        else:
            chosen = _needed_files(inside, allow_pickle, skip_safetensors, variant)
        return [prefix + file for file in chosen]

    is_enough = bool if allow_patterns is not None else _has_weights
    request = _Request(name, revision, cache_dir, token, choose, is_enough, parts)
    return request.find(local_files_only, force_download)


def _safe_parts(path: str | None, what: str) -> list[str]:
    parts = [part for part in (path or "").split("/") if part]
    unsafe = any(part in (".", "..") or "\\" in part or "\0" in part for part in parts)
    if unsafe or (path or "").startswith("/"):
        raise HubError(f"{what} is {path!r}; give a relative name without '..'")
    return parts


def _needed_files(
    files: Sequence[str], allow_pickle: bool, skip_safetensors: bool, variant: str | None
) -> list[str]:
    """Choose the files that a model needs among those of its folder; without weights when it has none."""
    chosen = [file for file in _SMALL_FILES if file in files]
    infix = rf"\.{re.escape(variant)}" if variant else ""
    # A shard's variant stands before its number, or (older files) after it.
    kinds = [("model", "safetensors")] * (not skip_safetensors) + [("pytorch_model", "bin")] * allow_pickle
    for stem, suffix in kinds:
        single = re.compile(rf"{stem}{infix}\.{suffix}")
        index = re.compile(rf"{stem}\.{suffix}\.index{infix}\.json")
        shard = re.compile(rf"{stem}({infix}-\d{{5}}-of-\d{{5}}|-\d{{5}}-of-\d{{5}}{infix})\.{suffix}")
        whole = [file for file in files if single.fullmatch(file)]
        if whole:
            return chosen + whole
        if any(index.fullmatch(file) for file in files):
            return chosen + [file for file in files if index.fullmatch(file) or shard.fullmatch(file)]
    return chosen


class _Request:
    """One name to resolve: where to look, in which order, and how to word a failure."""

    def __init__(
        self,
        name: str,
        revision: str | None,
        cache_dir: str | os.PathLike[str] | None,
        token: str | bool | None,
        choose: Callable[[Iterable[str]], list[str]],
        is_enough: Callable[[Sequence[str]], bool],
        parts: list[str],
    ) -> None:
        self.name, self.revision, self.token = name, revision or "main", token
        self.choose, self.is_enough, self.parts = choose, is_enough, parts
        from huggingface_hub import constants

        self.offline = bool(constants.HF_HUB_OFFLINE)
        self.cache = Path(cache_dir if cache_dir is not None else constants.HF_HUB_CACHE).expanduser()

    def find(self, local_files_only: bool, force_download: bool) -> Path:
        if local_files_only or self.offline:
            why = "local_files_only is set" if local_files_only else "HF_HUB_OFFLINE is set"
            what = f"{self.name!r} ({self.revision})"
            return self._cached_or(f"{why}, and {what} is not complete in the cache {self.cache}")
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        # HTTPError of whichever HTTP library is underneath
        transport_error = cast("type[Exception]", HfHubHTTPError.__bases__[0])
        try:
            return self._download(HfApi(token=self.token), force_download)
        except HubError:
            raise
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status < 500 and status not in (408, 429):
                raise HubError(self._explain(error, status)) from error
            reason = f"the hub answered {status} for {self.name!r}"
        except (transport_error, OSError, ValueError) as error:
            detail = f"{type(error).__name__}: {_one_line(error)}"
            reason = f"the hub cannot be reached for {self.name!r} ({detail})"
        if force_download:
            raise HubError(f"{reason}; try again later, or drop force_download to use the cache")
        folder = self._cached_or(f"{reason}, and the cache in {self.cache} has no complete copy")
        import logging

        logging.getLogger("gpt2kit").warning("%s; using the copy in the cache", reason)
        return folder

    def _download(self, api: object, force: bool) -> Path:
        from huggingface_hub import HfApi, hf_hub_download

        assert isinstance(api, HfApi)
        info = api.model_info(self.name, revision=self.revision)
        files = self.choose([sibling.rfilename for sibling in info.siblings or []])
        if not files:
            raise HubError(f"{self.name!r} ({self.revision}) has none of the files that are needed")
        commit = info.sha or self.revision
        if not force:
            for folder in self._snapshots(commit):
                if all((folder / file).is_file() for file in files):
                    self._remember(commit)
                    return folder.joinpath(*self.parts)
        path = ""
        for i, file in enumerate(files):
            # The first is asked for by branch or tag, which records in the cache what that stands for; the
            # rest by commit, so that all are of one state of the repository.
            revision = self.revision if i == 0 else commit
            path = hf_hub_download(
                self.name,
                file,
                revision=revision,
                cache_dir=self.cache,
                token=self.token,
                force_download=force,
                endpoint=api.endpoint,
            )
            if i == 0 and (match := _COMMIT.search(Path(path).as_posix().rsplit("/snapshots/", 1)[-1])):
                commit = match.group()
        return Path(path[: -len(files[-1]) - 1]).joinpath(*self.parts)

    def _remember(self, commit: str) -> None:
        """Record what a branch or tag stands for, so that the same name is found later without the hub."""
        ref = self._repository(self.name) / "refs" / self.revision
        if commit == self.revision or not (self._repository(self.name) / "snapshots" / commit).is_dir():
            return
        if not ref.is_file() or ref.read_text() != commit:
            from gpt2kit.files import atomic_write

            ref.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(ref) as file:
                file.write(commit.encode())

    def _repository(self, name: str) -> Path:
        return self.cache / f"models--{name.replace('/', '--')}"

    def _snapshots(self, commit: str | None) -> list[Path]:
        """List the snapshot folders in the cache for a commit, or for what self.revision stood for."""
        found = []
        for name in (self.name, _SECOND_NAMES.get(self.name)):
            if name is None:
                continue
            repository = self._repository(name)
            ref = repository / "refs" / self.revision
            wanted = commit or (ref.read_text().strip() if ref.is_file() else self.revision)
            if _COMMIT.fullmatch(wanted) and (repository / "snapshots" / wanted).is_dir():
                found.append(repository / "snapshots" / wanted)
        return found

    def _cached_or(self, otherwise: str) -> Path:
        for folder in self._snapshots(None):
            present = (file for file in sorted(folder.rglob("*")) if file.is_file())
            names = [file.relative_to(folder).as_posix() for file in present]
            if self.is_enough(self.choose(names)) and _has_all_shards(self.choose(names)):
                return folder.joinpath(*self.parts)
        raise HubError(f"{otherwise}; download it once while online, or give a folder")

    def _explain(self, error: Exception, status: int) -> str:
        from huggingface_hub import errors

        if isinstance(error, errors.GatedRepoError):
            return f"{self.name!r} is gated: ask for access on its page, then log in or pass token="
        if isinstance(error, errors.RevisionNotFoundError):
            return f"{self.name!r} has no revision {self.revision!r}; give an existing branch, tag or commit"
        if isinstance(error, errors.RepositoryNotFoundError):
            return (
                f"{self.name!r} is not on the hub, or is private; check the name, log in or pass token=, or "
                "give a folder that exists"
            )
        if isinstance(error, errors.EntryNotFoundError):
            return f"{self.name!r} ({self.revision}) lacks a file that it lists: {_one_line(error)}"
        if status in (401, 403):
            return f"the hub refuses access to {self.name!r} ({status}); log in or pass a valid token="
        return f"the hub refuses {self.name!r} ({status}): {_one_line(error)}"


def _has_all_shards(files: Sequence[str]) -> bool:
    """Tell whether each family of shards `k of N` among some files has N members."""
    families: dict[tuple[str, int, str], int] = {}
    for file in files:
        if match := re.search(r"-\d{5}-of-(\d{5})", file):
            family = (file[: match.start()], int(match.group(1)), file[match.end() :])
            families[family] = families.get(family, 0) + 1
    return all(count == total for (_, total, _), count in families.items())


def _has_weights(files: Sequence[str]) -> bool:
    return any(file.endswith((".safetensors", ".bin")) for file in files)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
