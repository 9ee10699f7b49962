"""The Maven poms of the stack's components: what jars each needs, at the versions of `stack.versions`."""

from __future__ import annotations

from dataclasses import dataclass

from stack import versions


@dataclass(frozen=True)
class Artifact:
    """One dependency of a pom. `alone` leaves its transitive dependencies out."""

    group: str
    name: str
    version: str
    classifier: str = ""
    type: str = "jar"
    alone: bool = False

    def xml(self) -> str:
        """As Maven wants it."""
        exclusions = (
            "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"
            if self.alone
            else ""
        )
        classifier = f"<classifier>{self.classifier}</classifier>" if self.classifier else ""
        return (
            f"<dependency><groupId>{self.group}</groupId><artifactId>{self.name}</artifactId>"
            f"<version>{self.version}</version><type>{self.type}</type>{classifier}{exclusions}</dependency>"
        )


def pom(name: str, artifacts: tuple[Artifact, ...]) -> str:
    """A pom that depends on these artifacts."""
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        f"<groupId>lakeward.stack</groupId><artifactId>{name}</artifactId><version>1</version>"
        f"<packaging>pom</packaging><dependencies>{''.join(a.xml() for a in artifacts)}</dependencies></project>\n"
    )


KAFKA = (
    Artifact("org.apache.kafka", "kafka_2.13", versions.KAFKA),
    Artifact("org.apache.kafka", "connect-runtime", versions.KAFKA),
    # Kafka speaks slf4j 1.x: the binding must be the 1.x one
    Artifact("org.apache.logging.log4j", "log4j-slf4j-impl", versions.LOG4J),
)

CONNECTORS = tuple(
    Artifact("io.debezium", f"debezium-connector-{kind}", version, "plugin", "tar.gz", alone=True)
    for kind, version in (("postgres", versions.DEBEZIUM_POSTGRES), ("mariadb", versions.DEBEZIUM_MARIADB))
)

CONVERTER = (Artifact("io.apicurio", "apicurio-registry-utils-converter", versions.APICURIO_CONVERTER),)

REGISTRY = (Artifact("io.apicurio", "apicurio-registry-app", versions.APICURIO_REGISTRY, "all", "tar.gz", alone=True),)

S3PROXY = (
    Artifact("org.gaul", "s3proxy", versions.S3PROXY),
    Artifact("com.fasterxml.jackson.core", "jackson-annotations", versions.JACKSON_ANNOTATIONS),
)

CATALOG = (
    Artifact("org.apache.iceberg", "iceberg-open-api", versions.ICEBERG, "test-fixtures", alone=True),
    Artifact("org.apache.iceberg", "iceberg-core", versions.ICEBERG),
    Artifact("org.apache.iceberg", "iceberg-core", versions.ICEBERG, "tests", alone=True),
    Artifact("org.apache.iceberg", "iceberg-api", versions.ICEBERG, "tests", alone=True),
    Artifact("org.apache.iceberg", "iceberg-aws", versions.ICEBERG, alone=True),
    Artifact("org.apache.iceberg", "iceberg-aws-bundle", versions.ICEBERG, alone=True),
    Artifact("dev.failsafe", "failsafe", versions.FAILSAFE, alone=True),
    Artifact("org.eclipse.jetty.ee10", "jetty-ee10-servlet", versions.JETTY),
    Artifact("org.eclipse.jetty", "jetty-server", versions.JETTY),
    Artifact("org.eclipse.jetty.compression", "jetty-compression-server", versions.JETTY),
    Artifact("org.eclipse.jetty.compression", "jetty-compression-gzip", versions.JETTY),
    Artifact("org.xerial", "sqlite-jdbc", versions.SQLITE_JDBC),
    Artifact("org.apache.hadoop", "hadoop-client-api", versions.HADOOP_CLIENT, alone=True),
    Artifact("org.apache.hadoop", "hadoop-client-runtime", versions.HADOOP_CLIENT, alone=True),
    Artifact("org.slf4j", "slf4j-simple", versions.SLF4J_SIMPLE),
    Artifact("commons-logging", "commons-logging", versions.COMMONS_LOGGING),
)

SPARK = (
    Artifact(
        "org.apache.iceberg",
        f"iceberg-spark-runtime-{versions.SPARK_LINE}_{versions.SCALA}",
        versions.ICEBERG,
        alone=True,
    ),
    Artifact("org.apache.iceberg", "iceberg-aws-bundle", versions.ICEBERG, alone=True),
    Artifact("org.xerial", "sqlite-jdbc", versions.SQLITE_JDBC, alone=True),
    Artifact("io.delta", f"delta-spark_{versions.SCALA}", versions.DELTA_SPARK, alone=True),
    Artifact("io.delta", "delta-storage", versions.DELTA_SPARK, alone=True),
    Artifact("org.antlr", "antlr4-runtime", versions.ANTLR, alone=True),
)
