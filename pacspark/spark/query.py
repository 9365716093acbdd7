"""The tables as Spark sees them, and SQL in which any DICOM keyword is a column of `instances`."""

import re
from collections.abc import Iterator
from typing import Any

from py4j.java_gateway import JavaObject
from py4j.protocol import Py4JJavaError
from pydicom.datadict import tag_for_keyword
from pyspark.errors import AnalysisException, ParseException, PySparkException
from pyspark.logger import PySparkLogger
from pyspark.sql import Column, DataFrame, Row, SparkSession

from pacspark.errors import JobError, QueryError
from pacspark.spark.attributes import attribute
from pacspark.spark.session import spark_alive
from pacspark.tables.catalog import Catalog
from pacspark.tables.schema import TABLES

MAX_NAMED = 500
"""Attributes that one statement can name: each is a column of a plan."""

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


@spark_alive()
def sql(spark: SparkSession, catalog: Catalog, statement: str) -> DataFrame:
    """Run a query over the tables of an archive, all as `catalog` sees them.

    Every table is a view of its name; those that the statement does not name are not opened. Each
    DICOM keyword that it names is a column of `instances`, promoted or not, in the letter case that
    PS3.6 has, and so is each path in backquotes, with a type if wanted: `` `ImageType[2]` ``,
    `` `RescaleSlope::decimal(38,18)` ``.

    Raises
    ------
    QueryError
        When the statement is not SQL, names what is not there, or does more than ask.
    """
    no_paths: dict[str, QueryError] = {}
    try:
        for name in _tables_of_query(spark, statement):
            frame = table(spark, catalog, name)
            if name == "instances":
                named, no_paths = _named_attributes(statement, frame.columns)
                frame = frame.select("*", *named)
            frame.createOrReplaceTempView(name)
        return spark.sql(statement)
    except (ParseException, AnalysisException) as error:
        for word, reason in no_paths.items():
            if f"`{word}`" in str(error):
                raise reason from error
        raise QueryError(_first_line(error)) from error
    except Py4JJavaError as error:  # the parser recurses as SQL nests
        if "StackOverflowError" not in str(error.java_exception):
            raise
        message = "sql: expected a query that Spark can follow, found one nested too deeply"
        raise QueryError(message) from error


def filtered(frame: DataFrame, condition: str | Column) -> DataFrame:
    """Choose rows of the `instances` DataFrame; a text names attributes as `sql` takes them.

    Raises
    ------
    QueryError
        When a text is no condition, names what is not there, or does more than ask.
    """
    if not isinstance(condition, str):
        return frame.where(condition)
    try:
        # parsed, never run
        statement = f"SELECT 1 FROM instances WHERE {condition}"  # noqa: S608
        others = set(_tables_of_query(frame.sparkSession, statement)) - {"instances"}
        if others:
            message = f"where: expected a condition on instances, found {min(others)!r:.80}"
            raise QueryError(message)
        named, _ = _named_attributes(condition, frame.columns)
        return frame.select("*", *named).where(condition)
    except (ParseException, AnalysisException) as error:
        raise QueryError(_first_line(error)) from error


_PACKAGES = tuple(
    f"org.apache.spark.sql.{package}"
    for package in (
        "catalyst.plans.logical",
        "catalyst.analysis",
        "catalyst.expressions",
        "execution.command",
    )
)
_PLANS = frozenset(
    """
    Aggregate CurrentNamespace$ DescribeColumn DescribeQueryCommand DescribeRelation Distinct Except
    ExplainCommand Filter Generate GlobalLimit Intersect Join LateralJoin LimitAll LocalLimit
    LocalRelation Offset OneRowRelation PipeOperator Pivot Project RepartitionByExpression Sample
    ShowColumns ShowTables Sort SubqueryAlias Union UnresolvedHaving UnresolvedHint
    UnresolvedInlineTable UnresolvedQualify UnresolvedRelation UnresolvedSubqueryColumnAliases
    UnresolvedTVFAliases UnresolvedTableOrView UnresolvedTableValuedFunction UnresolvedWith Unpivot
    WithWindowDefinition
    """.split()
)
"""What a statement may consist of; all else, known or new in a later Spark, is refused."""
_FUNCTIONS = frozenset(
    """
    ExpressionWithUnresolvedIdentifier UnresolvedFunction UnresolvedGenerator
    UnresolvedTableValuedFunction
    """.split()
)
_ROW_MAKERS = frozenset(
    """
    explode explode_outer inline inline_outer json_tuple posexplode posexplode_outer range stack
    variant_explode variant_explode_outer
    """.split()
)
_REACHING_OUT = frozenset(
    """
    from_avro from_protobuf from_xml identifier java_method reflect schema_of_avro schema_of_xml
    to_avro to_protobuf try_reflect
    """.split()
)
"""Built-in functions that run any Java, or can read files; no query can add others."""


def _tables_of_query(spark: SparkSession, statement: str) -> list[str]:
    """Give the tables that a question names; refuse all else before Spark looks at what it names.

    Analysis alone would do harm already: it runs EXECUTE IMMEDIATE and lists the files of a path.
    """
    if "${" in statement:  # the parser would put in the process's environment, keys and all
        message = "sql: expected a query, found ${...}, which would read variables of the process"
        raise QueryError(message)
    known, named, lists_all = set(TABLES), [], False
    for package, kind, node, is_plan in _nodes(spark, statement):
        if is_plan and not (package in _PACKAGES and kind in _PLANS):
            found = kind.removeprefix("Unresolved").rstrip("$")
            message = f"sql: expected a query, found {found}, which may do more than ask"
            raise QueryError(message)
        if kind in {"UnresolvedRelation", "UnresolvedTableOrView"}:
            named.append(_words(node.multipartIdentifier()))
        elif kind == "UnresolvedWith":
            relations = _items(node.cteRelations())
            known |= {relation.productElement(0).lower() for relation in relations}
        elif kind in _FUNCTIONS:
            _require_harmless(kind, node)
        lists_all |= kind == "ShowTables"
    for words in named:
        if len(words) != 1 or words[0].lower() not in known:
            message = (
                f"sql: expected a table of the archive ({', '.join(TABLES)}), found "
                f"{'.'.join(words)[:80]!r}"
            )
            raise QueryError(message)
    wanted = {words[0].lower() for words in named}
    return [name for name in TABLES if lists_all or name in wanted]


def _nodes(spark: SparkSession, statement: str) -> Iterator[tuple[str, str, Any, bool]]:
    """Give all that a parsed statement consists of: package, class, itself, and if it is a plan."""
    jvm: Any = spark._jvm  # noqa: SLF001 -- only Spark's own parser knows its SQL
    session: Any = spark._jsparkSession  # noqa: SLF001
    is_plan, is_iterable, is_product = (
        jvm.java.lang.Class.forName(name).isInstance
        for name in (
            "org.apache.spark.sql.catalyst.plans.logical.LogicalPlan",
            "scala.collection.IterableOnce",
            "scala.Product",
        )
    )
    # by their fields, not their children: subqueries stand in expressions, names of CTEs in pairs
    nodes = [session.sessionState().sqlParser().parsePlan(statement)]
    while nodes:
        node = nodes.pop()
        if not isinstance(node, JavaObject):
            continue
        package, _, kind = node.getClass().getName().rpartition(".")
        if kind == "Literal" or package == "org.apache.spark.sql.types":
            continue  # the most frequent ones, which hold no others
        yield package, kind, node, is_plan(node)
        if is_iterable(node):
            nodes += _items(node)
        elif is_product(node):
            nodes += _items(node.productIterator())


def _require_harmless(kind: str, function: Any) -> None:
    if kind == "ExpressionWithUnresolvedIdentifier":
        words = ["identifier"]  # which makes the name of a function while the query is analysed
    elif kind == "UnresolvedGenerator":
        words = [function.name().funcName()]
    elif kind == "UnresolvedFunction":
        words = _words(function.nameParts())
    else:
        words = _words(function.name())
    name = words[-1].lower()
    makes_rows = kind == "UnresolvedTableValuedFunction"
    if name in _REACHING_OUT or (makes_rows and name not in _ROW_MAKERS):
        message = f"sql: expected functions of values alone, found {'.'.join(words)[:80]!r}"
        raise QueryError(message)


def _items(iterable: Any) -> list[Any]:
    iterator = iterable.iterator()
    found = []
    while iterator.hasNext():
        found.append(iterator.next())
    return found


def _words(names: Any) -> list[str]:
    return [str(word) for word in _items(names)]


@spark_alive()
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


def _named_attributes(
    statement: str, columns: list[str]
) -> tuple[list[Column], dict[str, QueryError]]:
    """Give the attributes that a statement names: keywords, and paths in backquotes.

    Also, what in backquotes looks like a path and is none, and why: it may be the name of a result.
    """
    present = {name.lower() for name in columns}
    quoted = [name.replace("``", "`") for name in re.findall("`((?:[^`]|``)+)`", statement)]
    words = dict.fromkeys([*quoted, *re.findall(r"\b[A-Z][A-Za-z0-9]+\b", statement)])
    named, no_paths = [], {}
    for word in words:
        is_path = word in quoted and re.search(r"[.\[:]|^[0-9A-Fa-f]{8}$", word)
        if word.lower() not in present and (is_path or tag_for_keyword(word) is not None):
            path, _, as_type = word.partition("::")
            try:
                named.append(attribute(path, as_type or None).alias(word))
            except QueryError as error:
                no_paths[word] = error
    if len(named) > MAX_NAMED:
        message = f"sql: expected at most {MAX_NAMED} DICOM attributes, found {len(named)}"
        raise QueryError(message)
    return named, no_paths


def _first_line(error: PySparkException) -> str:
    return next(line for line in str(error).splitlines() if line.strip())
