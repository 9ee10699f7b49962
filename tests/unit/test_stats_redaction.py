"""No secret of the configuration, and none inside an address, gets onto a page, whatever a driver's message says."""

from __future__ import annotations

from pathlib import Path

from app.redaction import redactor
from config.environment import load_settings

PIPELINE = """
pipeline_id: p
topic_prefix: cdc
source: {database: d, password: "s3cret word", tables: [public.t]}
sinks:
- sink_id: lake
  sink_type: iceberg
  iceberg:
    catalog_uri: http://localhost:1
    warehouse: s3://w
    s3_secret_access_key: abcdSECRET
    catalog_properties: {token: tok-12345, scope: catalog}
"""


def test_secrets_of_the_configuration_and_of_addresses_are_masked(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(PIPELINE)
    settings = load_settings(tmp_path / "p.yaml", None, {})
    redact = redactor(settings.pipeline, settings.platform)
    text = redact(
        "FATAL: password s3cret word refused; key abcdSECRET, bearer tok-12345;"
        " postgresql://app:pa@ss@db:5432/x?sslpassword=zz and http://localhost:1/v1/config; mail@example.com stays"
    )
    for secret in ("s3cret word", "abcdSECRET", "tok-12345", "pa@ss", "app:"):
        assert secret not in text
    assert "@db:5432/x" in text
    assert "http://localhost:1/v1/config; mail@example.com stays" in text
    assert redact("scope catalog is missing") == "scope catalog is missing"
