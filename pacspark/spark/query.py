"""The tables as Spark sees them, and SQL in which any DICOM keyword is a column of `instances`."""

import re

from py4j.java_gateway import is_instance_of
from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pyspark.errors import AnalysisException, ParseException, PySparkException
from pyspark.logger import PySparkLogger
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as sf

from pacspark.dicom.attributes import PROMOTED, kind_of_vr
from pacspark.errors import JobError, QueryError
from pacspark.tables.catalog import Catalog
from pacspark.tables.schema import TABLES

SPARK_TYPES = {"string": "string", "int64": "bigint", "double": "double"}
_COLUMN_OF_KEYWORD = {attribute.keyword: attribute.column for attribute in PROMOTED}

# each wrong query is raised; it need not be logged with its stack as well
PySparkLogger.getLogger("SQLQueryContextLogger").disabled = True


def table(spark: SparkSession, catalog: Catalog, name: str) -> DataFrame:
    """Open one table of an archive as a Spark DataFrame.

    Parameters
    ----------
    spark
        A session with Delta.
    catalog
        The archive; where it looks at an earlier moment, so does the DataFrame.
    name
        One of `tables.schema.TABLES`.
    """
    reader = spark.read.format("delta")
    if catalog.as_of is not None:  # a version says the same to every engine, a time need not
        reader = reader.option("versionAsOf", catalog.version(name))
    return reader.load(catalog.storage.spark_uri(name))


def attribute(keyword: str) -> Column:
    """Give any DICOM attribute as a column of the `instances` DataFrame.

    A promoted attribute is its column; any other is read from the DICOM JSON. A single value is a
    string, a bigint or a double by its VR, several are an array, a sequence is a VARIANT.

    Raises
    ------
    QueryError
        When PS3.6 knows no such keyword.
    """
    column = _COLUMN_OF_KEYWORD.get(keyword)
    if column is not None:
        return sf.col(column).alias(keyword)
    tag = tag_for_keyword(keyword)
    if tag is None:
        message = f"{keyword}: expected a DICOM keyword, found none of that name in PS3.6"
        raise QueryError(message)
    vr = dictionary_VR(tag)
    path = f'$["{tag:08X}"].Value'
    kind = SPARK_TYPES[kind_of_vr(vr)]
    if vr == "SQ":
        kind = "variant"
    elif vr == "PN":
        path += "[0].Alphabetic"
    elif dictionary_VM(tag) == "1":
        path += "[0]"
    else:
        kind = f"array<{kind}>"
    return sf.try_variant_get(sf.parse_json(sf.col("dicom_json")), path, kind).alias(keyword)


def sql(spark: SparkSession, catalog: Catalog, statement: str) -> DataFrame:
    """Run a query over the tables of an archive, all as `catalog` sees them.

    Every table is a view of its name. Each DICOM keyword that the statement names is a column of
    `instances`, promoted or not, in any letter case that PS3.6 has.

    Raises
    ------
    QueryError
        When the statement is not SQL or names what is not there.
    """
    try:
        _require_query(spark, statement)
        for name in TABLES:
            frame = table(spark, catalog, name)
            if name == "instances":
                frame = frame.select("*", *_named_attributes(statement, frame.columns))
            frame.createOrReplaceTempView(name)
        return spark.sql(statement)
    except (ParseException, AnalysisException) as error:
        raise QueryError(_first_line(error)) from error


_LOGICAL = "org.apache.spark.sql.catalyst.plans.logical"
_ASKS = ("Show", "Describe", "Explain")


def _require_query(spark: SparkSession, statement: str) -> None:
    """Refuse what changes something: an archive is written by its own commands alone."""
    gateway = spark.sparkContext._gateway  # noqa: SLF001 -- only Spark's own parser knows its SQL
    plans = [spark._jsparkSession.sessionState().sqlParser().parsePlan(statement)]  # noqa: SLF001
    while plans:
        plan = plans.pop()
        name = plan.getClass().getSimpleName()
        if name.startswith("Insert") or (
            not name.startswith(_ASKS)
            and any(
                is_instance_of(gateway, plan, f"{_LOGICAL}.{kind}")
                for kind in ("Command", "ParsedStatement")
            )
        ):
            message = f"sql: expected a query, found {plan.nodeName()}, which changes something"
            raise QueryError(message)
        children = plan.children()
        plans += [children.apply(index) for index in range(children.size())]


def collect(frame: DataFrame) -> list[Row]:
    """Run a query and return its rows.

    Raises
    ------
    JobError
        When it fails while it runs; one line.
    """
    try:
        return frame.collect()
    except PySparkException as error:
        raise JobError(_first_line(error)) from error


def _named_attributes(statement: str, columns: list[str]) -> list[Column]:
    present = {name.lower() for name in columns}
    words = dict.fromkeys(re.findall(r"\b[A-Z][A-Za-z0-9]+\b", statement))
    return [
        attribute(word)
        for word in words
        if word.lower() not in present and tag_for_keyword(word) is not None
    ]


def _first_line(error: PySparkException) -> str:
    return next(line for line in str(error).splitlines() if line.strip())
