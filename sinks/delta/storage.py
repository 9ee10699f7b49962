"""Reaching a Delta table's store: options with safe defaults, and its errors in terms of what to do about them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlparse

from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from obstore.exceptions import AlreadyExistsError, BaseError, UnknownConfigurationKeyError

from config.errors import ConfigurationError, Unavailable

_CLOCK_REFUSED = re.compile("request_?time_?too_?skewed", re.IGNORECASE)
"""What S3 stores say to a signature that is 15 minutes off: clocks are set right, and the next request passes."""

_DENIED = re.compile(
    r"access ?denied|permission denied|forbidden|unauthorized|InvalidAccessKeyId|SignatureDoesNotMatch|NoSuchBucket"
    r"|\b40[13]\b|Unknown scheme|missing region|read-only file system"
    r"|Invalid table location|not a directory|file exists|URL scheme is not allowed",
    re.IGNORECASE,
)
_AWAY = re.compile(
    r"Generic (S3|GCS|MicrosoftAzure|HTTP|LocalFileSystem) error|error sending request|connect|timed? ?out|timeout"
    r"|\b(429|50[0234])\b|slow ?down|no space left",
    re.IGNORECASE,
)

_GONE = re.compile(r"Object at location .* not found|File not found|NoSuchKey|\b404\b")
"""Of a file that the log names: lost, or not yet shown by a store that isn't consistent."""


def storage_options(uri: str, given: Mapping[str, str]) -> dict[str, str]:
    """`given` with defaults: commits by conditional put (two writers of one version must not both win), plain HTTP
    where the endpoint says so, and few retries inside a call (the agents retry, and log it)."""
    options = dict(given)
    known = {key.lower().removeprefix("aws_") for key in options}
    defaults = {"max_retries": "2", "retry_timeout": "15s", "connect_timeout": "5s", "timeout": "30s"}
    if uri.startswith(("s3://", "s3a://")):
        defaults["aws_conditional_put"] = "etag"
        endpoint = next((v for k, v in options.items() if k.lower() in ("aws_endpoint_url", "endpoint_url")), "")
        if endpoint.startswith("http://"):
            defaults["aws_allow_http"] = "true"
    elif "://" not in uri or uri.startswith("file://"):
        defaults = {}
    return options | {key: value for key, value in defaults.items() if key.removeprefix("aws_") not in known}


def load(uri: str, options: Mapping[str, str]) -> DeltaTable | None:
    """The table at its newest version, None if there is none."""
    with store_errors(uri):
        try:
            return DeltaTable(uri, storage_options=dict(options))
        except TableNotFoundError as error:
            if _DENIED.search(str(error)) and not _missing(uri):
                raise
            return None


def shown_older(uri: str, shown: int, known: int) -> Unavailable:
    """The error for a table that its store shows at an older version than was seen before. A rollback isn't one: it is
    a newer version."""
    return Unavailable(
        f"Delta table {uri}: its log is shown up to version {shown} only, but was read up to {known} before: the store"
        " isn't consistent, or the log was cut off (then restart the pipeline)"
    )


def _missing(uri: str) -> bool:
    """A local path that isn't there yet, which delta-rs reports in the same words as one that it may not read."""
    local = urlparse(uri)
    return local.scheme in ("", "file") and not Path(unquote(local.path)).exists()


@contextmanager
def store_errors(uri: str, *, absent: bool = False) -> Iterator[None]:
    """Turn what delta-rs and obstore raise into ConfigurationError or Unavailable; a lost race (CommitFailedError), a
    file that isn't there where that is an answer (`absent`), and what is none of these pass unchanged."""
    try:
        yield
    except (CommitFailedError, AlreadyExistsError):
        raise
    except FileNotFoundError as error:
        if absent:
            raise
        raise Unavailable(f"Delta table {uri}: {gone(error)}") from error
    except UnknownConfigurationKeyError as error:
        raise ConfigurationError(f"Delta table {uri}: storage_options: {_plain(error)}") from error
    except (DeltaError, BaseError, OSError) as error:
        text = _plain(error)
        if _CLOCK_REFUSED.search(text):
            raise Unavailable(f"Delta table {uri}: the store refuses this machine's clock: {text}") from error
        if _DENIED.search(text):
            raise ConfigurationError(
                f"Delta table {uri}: the store refuses: {text}. Check table_uri and storage_options (keys, region,"
                " endpoint, permissions)"
            ) from error
        if _GONE.search(text):
            raise Unavailable(f"Delta table {uri}: {gone(error)}") from error
        if isinstance(error, OSError) or _AWAY.search(text):
            raise Unavailable(f"Delta table {uri}: the store can't be reached or failed: {text}") from error
        raise


def gone(error: Exception) -> str:
    """What to say of a file that a table needs and that isn't found."""
    return (
        f"a file that it needs is gone, or its store doesn't show it yet: {_plain(error)}. If it stays away, bring it"
        " back, or restore a version of the table from before it"
    )


def _plain(error: Exception) -> str:
    """The error on one line, without terminal colours and obstore's second telling."""
    text = str(error).partition("Debug source:")[0]
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m|↳", "", text)).strip()[:600]
