"""Reaching an Iceberg catalog: properties for PyIceberg, and its exceptions sorted by the reaction they ask for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import requests
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import (
    AuthorizationExpiredError,
    CommitFailedException,
    CommitStateUnknownException,
    ForbiddenError,
    NamespaceAlreadyExistsError,
    OAuthError,
    RESTError,
    ServerError,
    ServiceUnavailableError,
    UnauthorizedError,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError, InterfaceError, OperationalError

from config.errors import ConfigurationError, Unavailable
from config.pipeline import IcebergConfig
from sinks.iceberg.store import StoreFiles

SQLITE_WAIT_SECONDS = 30
CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 60.0
"""How long a REST catalog may take to accept a connection, and to go on with an answer. What came of a commit that
isn't answered is read from the table."""
_POSTGRES_DEFAULTS = {"connect_timeout": 10, "keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 4}
"""As the above, for a catalog in PostgreSQL (libpq's parameters); by default a lost connection is noticed in hours."""

_REFUSED_BY_STORE = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|NO_SUCH_BUCKET)"
)


class CommitConflict(Exception):
    """Another commit came first; read the table anew and decide again."""


class CommitUnknown(Exception):
    """The catalog didn't say whether the commit landed; read the table to know."""


class PunctualRestCatalog(RestCatalog):
    """PyIceberg's, whose requests end in time: it would wait for ever for an answer from behind a proxy that forgot the
    connection, or from a machine that is gone. Raises requests.Timeout."""

    def _create_session(self) -> requests.Session:
        session = super()._create_session()
        timed = partial(session.request, timeout=(CONNECT_SECONDS, ANSWER_SECONDS))
        session.request = timed  # type: ignore[method-assign] # all of its verbs call it, whatever signs them
        return session


def catalog_properties(config: IcebergConfig) -> dict[str, str]:
    """What PyIceberg is told: warehouse, object store, and the user's own properties, which win."""
    properties = {"uri": _uri(config), "warehouse": config.warehouse}
    if config.is_rest:
        properties["type"] = "rest"
    secret = config.s3_secret_access_key
    store = {
        "s3.endpoint": config.s3_endpoint,
        "s3.access-key-id": config.s3_access_key_id,
        "s3.secret-access-key": secret.get_secret_value() if secret else None,
        "s3.region": config.s3_region,
    }
    properties |= {key: str(value) for key, value in store.items() if value is not None}
    # by the S3 client of PyArrow; PyIceberg would prefer others that may be installed by chance
    properties["py-io-impl"] = f"{StoreFiles.__module__}.{StoreFiles.__qualname__}"
    return {**properties, **config.catalog_properties}


def connect(config: IcebergConfig) -> Catalog:
    """A catalog client. Creates a SQL catalog's folder and tables when they are missing."""
    with sorted_errors(config):
        properties = catalog_properties(config)
        if config.is_rest:
            return PunctualRestCatalog(config.catalog_name, **properties)
        if config.catalog_uri.startswith("sqlite:///"):
            Path(config.catalog_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        try:
            return SqlCatalog(config.catalog_name, **properties)
        except DBAPIError as error:
            if "already exists" not in str(error.orig) and not isinstance(error, IntegrityError):
                raise
            return SqlCatalog(config.catalog_name, **properties)  # another worker made its tables at the same moment


def _uri(config: IcebergConfig) -> str:
    uri = config.catalog_uri
    if uri.startswith("sqlite:///") and "?" not in uri:
        return f"{uri}?timeout={SQLITE_WAIT_SECONDS}"  # several workers write; the default gives up after 5 s
    if uri.startswith("postgresql://"):
        url = make_url(uri.replace("postgresql://", "postgresql+psycopg2://", 1))
        defaults = {name: str(value) for name, value in _POSTGRES_DEFAULTS.items() if name not in url.query}
        return url.update_query_dict(defaults).render_as_string(hide_password=False)
    return uri


def create_namespace(catalog: Catalog, name: str) -> None:
    """Make sure that a namespace is there, whoever makes it."""
    # a SQL catalog looks first and then inserts: two workers meet in the primary key
    with suppress(NamespaceAlreadyExistsError, IntegrityError):
        catalog.create_namespace(name)


@contextmanager
def sorted_errors(config: IcebergConfig) -> Iterator[None]:
    """Turns what PyIceberg, SQLAlchemy, requests and PyArrow raise into the error tree, naming the catalog."""
    where = f"Iceberg catalog {_without_password(config.catalog_uri)} (warehouse {config.warehouse})"
    try:
        yield
    except CommitFailedException as error:
        raise CommitConflict(str(error)) from error
    except CommitStateUnknownException as error:
        raise CommitUnknown(str(error)) from error
    except (UnauthorizedError, ForbiddenError, OAuthError, AuthorizationExpiredError) as error:
        raise ConfigurationError(f"{where} refuses the credentials: {error}; check catalog_properties") from error
    except (ServerError, ServiceUnavailableError, RESTError, requests.RequestException) as error:
        if str(error).startswith("NoSuchTableException"):
            # the answer to a commit into a table that was dropped: reading it anew says so
            raise CommitConflict(str(error)) from error
        raise Unavailable(f"{where}: {error}") from error
    except DBAPIError as error:
        kind = Unavailable if _passes(error) else ConfigurationError
        raise kind(f"{where}: {error.orig}") from error
    except PermissionError as error:
        raise ConfigurationError(f"{where}: {error}; check the rights on the warehouse") from error
    except FileNotFoundError:
        raise  # a file that the table needs is gone: not the network's doing
    except OSError as error:
        if _REFUSED_BY_STORE.search(str(error)):
            raise ConfigurationError(f"{where}: {error}; check the s3_* settings") from error
        raise Unavailable(f"{where}: {error}") from error


@contextmanager
def files_found(table: str) -> Iterator[None]:
    """Raises Unavailable for a file that a table needs and that isn't found."""
    try:
        yield
    except FileNotFoundError as error:
        raise Unavailable(f"table {table}: {gone(error)}") from error


def gone(error: FileNotFoundError) -> str:
    """What to say of a file that a table needs and that isn't found."""
    return (
        f"a file that it needs is gone, or its store doesn't show it yet: {error}. If it stays away, restore it, or"
        " roll the table back to a snapshot from before it"
    )


def _passes(error: DBAPIError) -> bool:
    """Whether a later call may do: the connection was lost, or the server is short of something or fails over."""
    if isinstance(error, OperationalError) or error.connection_invalidated:
        return True
    code: str | None = getattr(error.orig, "pgcode", "")  # PostgreSQL's alone have it
    if code is None:
        return type(error) in (DatabaseError, InterfaceError)  # the server didn't come to say anything
    # of transactions: a server that is a standby, or was the primary until now, refuses to write (25006)
    return code.startswith("25")


def _without_password(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
