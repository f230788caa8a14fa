"""Keys, passwords and signatures, taken out of every text before others may read it.

`redact` stands where texts leave the program: mistakes, the screen and its log, JSON files, pages, tables, the stored
configuration. It is no licence to pass secrets to these on purpose: it can not know all there are.
"""

import os
import re
from typing import Any

HIDDEN = "..."
VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "KAGGLE_KEY", "KAGGLE_API_TOKEN"),
    *("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
    *("RAY_AUTH_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "GITHUB_TOKEN"),
)
"""What these hold in the environment is shown nowhere."""
SHORTEST = 8
"""Characters: a shorter value, such as `test`, also stands in texts that have nothing to do with it."""
HARMLESS = {
    *("anonymous", "color", "endpoint_override", "file", "first", "format", "id", "name", "region", "rest", "scheme"),
    *("size", "version"),
}
"""Parameters of an address that are shown; any other may be a signature or a token."""
KEYS = re.compile(r"(storage\.(?:access_key|secret_key|session_token)\s*[=:]\s*)[^\s,}]+")
USER = re.compile(r"([A-Za-z][\w+.-]*)://([^/\s?#]*)@")
QUERY = re.compile(r"(([A-Za-z][\w+.-]*)://[^\s?'\"<>]*)\?([^\s'\"<>]*?)(?=[:;,.)]*(?:[\s'\"<>]|$))")
NAMED = re.compile(
    r"(?i)([?&](?:[\w-]*(?:signature|token|credential|secret|password|api_?key)[\w-]*|sig)=)[^&\s'\"<>]+"
)

_hidden: frozenset[str] = frozenset()


def hide(*values: str | None) -> None:
    """From here on these values are shown nowhere by this process."""
    global _hidden
    _hidden |= {value for value in values if value and len(value) >= SHORTEST}


def redact(text: str) -> str:
    """The text with `...` for keys, and addresses without passwords and without what may be a signature."""
    for value in (*_hidden, *(os.environ.get(name, "") for name in VARIABLES)):
        if len(value) >= SHORTEST and value in text:
            text = text.replace(value, HIDDEN)
    if "://" in text:
        text = QUERY.sub(_without_query, USER.sub(_without_user, text))
    if "=" in text or ":" in text:
        text = NAMED.sub(rf"\1{HIDDEN}", KEYS.sub(rf"\1{HIDDEN}", text))
    return text


def redacted(value: Any) -> Any:
    """The same of all texts in a value of lists and dictionaries."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return value


def _without_user(found: re.Match[str]) -> str:
    """abfs://CONTAINER@account and sftp://me@host tell no secret, https://TOKEN@host may."""
    scheme, user = found.groups()
    return found[0] if ":" not in user and scheme not in ("http", "https") else f"{scheme}://"


def _without_query(found: re.Match[str]) -> str:
    address, scheme, query = found.groups()
    if scheme in ("file", "memory"):  # where a name may hold a question mark
        return found[0]
    parts = [part for part in query.split("&") if part.partition("=")[0] in HARMLESS]
    kept = [part for part in parts if "@" not in part and "%40" not in part]
    return address + ("?" + "&".join(kept) if kept else "")
