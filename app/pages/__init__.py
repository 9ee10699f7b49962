"""The pages of a worker, on Faust's own web server, and the log lines `consumer.lag` and `pipeline.stalled`.

/stats/      the stats page, for people          /healthz   200 while the process lives
/api/stats   the same as JSON                    /readyz    200 or 503, with what is wrong
                                                 /metrics   Prometheus
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import orjson
import structlog

from app.application import LakewardApp
from app.pages.connector import ConnectorWatch
from app.pages.metrics import exposition
from app.pages.readiness import partition_lags, readiness
from app.pages.view import WorkerStats
from app.progress import LOOK_SECONDS
from config.environment import Settings

log = structlog.get_logger("lakeward.lag")

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Nothing is ever loaded from elsewhere, and no text of an error message can become a script.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'"
    ),
}

_ASSETS = {"stats.html": "text/html", "stats.css": "text/css", "stats.js": "text/javascript"}


def register_pages(app: LakewardApp, settings: Settings) -> None:
    """Add the pages to the app's web server and the regular log line; called once while the app is built."""
    stats = WorkerStats(app, settings)
    connector = ConnectorWatch(settings.platform.connector, settings.pipeline.pipeline_id, stats.redact)

    @app.page("/api/stats", name="api_stats")
    async def api_stats(view: Any, request: Any) -> Any:  # noqa: ARG001 - Faust's signature
        return _json(view, await stats.snapshot())

    @app.page("/healthz", name="healthz")
    async def healthz(view: Any, request: Any) -> Any:  # noqa: ARG001
        return _json(view, {"status": "alive"})

    @app.page("/readyz", name="readyz")
    async def readyz(view: Any, request: Any) -> Any:  # noqa: ARG001
        answer = readiness(await stats.snapshot(), stats.committable(), await connector.state())
        return _json(view, answer, status=200 if answer["ready"] else 503)

    @app.page("/metrics", name="metrics")
    async def metrics(view: Any, request: Any) -> Any:  # noqa: ARG001
        text = exposition(await stats.snapshot())
        return view.bytes(text.encode(), content_type="text/plain; version=0.0.4", headers=dict(_HEADERS))

    @app.timer(settings.platform.lag_monitor_interval_seconds)
    async def log_lag() -> None:
        lags = partition_lags(await stats.snapshot(), stats.committable())
        if lags:
            log.info("consumer.lag", total_lag=sum(lag["lag"] or 0 for lag in lags), partitions=lags)

    @app.timer(LOOK_SECONDS)
    async def watch_progress() -> None:
        await stats.look_for_stalls()

    for name in _ASSETS:
        _serve_asset(app, name)
    _redirect(app, "/stats", "stats/")
    app.on_before_shutdown.connect(stats.close)


def _json(view: Any, value: Any, status: int = 200) -> Any:
    body = orjson.dumps(value, option=orjson.OPT_UTC_Z)
    return view.bytes(body, content_type="application/json", status=status, headers=dict(_HEADERS))


def _serve_asset(app: LakewardApp, name: str) -> None:
    body = files(__name__).joinpath(name).read_bytes()
    path = "/stats/" if name == "stats.html" else f"/stats/{name}"
    content_type = _ASSETS[name]

    @app.page(path, name=name)
    async def asset(view: Any, request: Any) -> Any:  # noqa: ARG001
        response = view.bytes(body, content_type=content_type, headers=dict(_HEADERS))
        response.charset = "utf-8"
        return response


def _redirect(app: LakewardApp, path: str, to: str) -> None:
    @app.page(path, name=f"redirect {path}")
    async def redirect(view: Any, request: Any) -> Any:  # noqa: ARG001
        return view.text("", status=308, headers={"Location": to})
