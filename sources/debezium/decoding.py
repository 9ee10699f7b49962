"""A pipeline's decoder, from its two configuration files."""

from __future__ import annotations

from config.errors import ConfigurationError, Unavailable
from config.pipeline import PipelineConfig
from config.platform import PlatformConfig
from sources.debezium.column_checks import captured_columns
from sources.debezium.connectors import connector_for
from sources.debezium.decoder import DebeziumDecoder
from sources.debezium.schemaless import SchemalessTypes, declared_columns
from sources.debezium.schemas import RegistrySchemas
from sources.debezium.source_database import not_logged, source_database
from sources.debezium.source_types import Modes


def new_decoder(pipeline: PipelineConfig, platform: PlatformConfig) -> DebeziumDecoder:
    """A decoder with the pipeline's rules for columns; connects to nothing yet."""
    kafka = platform.kafka
    secret = kafka.schema_registry_password
    schemas = RegistrySchemas(
        kafka.schema_registry_url, kafka.schema_registry_username, secret.get_secret_value() if secret else None
    )
    rules = {pipeline.topic(table): columns for table, columns in pipeline.source.columns.items()}
    return DebeziumDecoder(schemas, rules, placeholder=pipeline.source.unavailable_value_placeholder)


async def learn_types(decoder: DebeziumDecoder, pipeline: PipelineConfig, platform: PlatformConfig) -> None:
    """Give the decoder the types of JSON records without schema, where such records are to be expected: with
    `connector.converter: json`, and for tables whose columns are declared.

    Raises ConfigurationError when the catalogue is needed and doesn't answer or doesn't know a table.
    """
    schemaless = platform.connector.converter == "json"
    tables = pipeline.source.tables
    undeclared = [table for table in tables if not declared_columns(pipeline, table)]
    if not schemaless and len(undeclared) == len(tables):
        return
    config = connector_for(pipeline, platform).to_connector_config()
    catalogue = {}
    if schemaless and undeclared:
        try:
            columns = await source_database(pipeline).columns()
            config = connector_for(pipeline, platform, not_logged(columns)).to_connector_config()
            catalogue = captured_columns(columns, config)
        except Unavailable as error:
            raise ConfigurationError(
                "JSON without schema (connector.converter: json) doesn't tell the columns' types, and the source's"
                f" catalogue can't be read: {error}. Declare the columns of {', '.join(undeclared)} (source.columns),"
                " or use another converter"
            ) from error
    decoder.schemaless = SchemalessTypes.of(pipeline, Modes.of(config), catalogue, needed=schemaless)
