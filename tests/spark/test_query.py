"""SQL asks, and does nothing else: no statement writes, runs a program or reads another file."""

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pacspark.archive import Archive, create_archive
from pacspark.errors import QueryError
from pacspark.spark.query import collect
from tests.ct_objects import ct_image, encoded, steps

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="module")
def archive(spark: "SparkSession", tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Give an archive of one image."""
    folder = tmp_path_factory.mktemp("sql")
    (folder / "image.dcm").write_bytes(encoded(ct_image(steps()[0], 1, (0, 0, 0))))
    archive = create_archive(folder / "archive", spark)
    archive.ingest(folder / "image.dcm")
    return archive


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT Modality, count(*) FROM instances GROUP BY ALL",
        "TABLE instances",
        "VALUES (1), (2)",
        "SELECT * FROM VALUES (1, upper('a')) AS t(a, b)",
        "WITH a AS (SELECT 1 AS n), b AS (SELECT * FROM A) SELECT n FROM b JOIN runs ON n > 0",
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) TABLE r",
        "SELECT * FROM instances a LEFT ANTI JOIN rejects b USING (sop_instance_uid)",
        "SELECT * FROM (SELECT Rows FROM instances) AS t(x) CROSS JOIN range(3)",
        "SELECT Rows FROM instances WHERE EXISTS (SELECT 1 FROM runs) AND Rows IN (SELECT 5)",
        "SELECT (SELECT max(started_at) FROM runs), instances.* FROM instances",
        "SELECT sum(Rows) OVER (ORDER BY Rows ROWS 1 PRECEDING) FROM instances",
        "SELECT sum(Rows) OVER w FROM instances WINDOW w AS (PARTITION BY Modality)",
        "SELECT z FROM instances LATERAL VIEW explode(array(1, 2)) t AS z",
        "SELECT z FROM instances i, LATERAL explode(array(i.size_bytes)) t(z)",
        "SELECT try_variant_get(parse_json(dicom_json), '$.a', 'int') FROM instances",
        "SELECT v.key FROM instances, LATERAL variant_explode(parse_json(dicom_json)) v",
        "SELECT * FROM instances TABLESAMPLE (50 PERCENT)",
        "SELECT 1 UNION ALL SELECT 2 EXCEPT SELECT 3 INTERSECT SELECT 4",
        "SELECT Rows FROM instances GROUP BY GROUPING SETS ((Rows), ()) HAVING count(*) > 0",
        "SELECT * FROM (SELECT Modality FROM instances) PIVOT (count(*) FOR Modality IN ('CT'))",
        "SELECT Rows FROM instances QUALIFY row_number() OVER (ORDER BY Rows) = 1",
        "SELECT /*+ BROADCAST(a) */ DISTINCT * FROM instances a ORDER BY 1 LIMIT 3 OFFSET 1",
        "SELECT transform(array(1), x -> x + 1), CASE WHEN 1 = 2 THEN 3 END, '1'::int",
        "FROM instances |> WHERE Rows > 0 |> AGGREGATE count(*) GROUP BY Modality |> LIMIT 1",
        "SHOW TABLES",
        "SHOW COLUMNS IN instances",
        "DESCRIBE instances",
        "DESCRIBE instances modality",
        "DESCRIBE QUERY SELECT 1",
        "EXPLAIN EXTENDED SELECT * FROM instances",
    ],
)
def test_questions__are_answered(archive: Archive, statement: str) -> None:
    frame = archive.sql(statement)
    assert frame.columns
    assert {len(row) for row in collect(frame)} <= {len(frame.columns)}


COMMANDS = [
    "EXECUTE IMMEDIATE 'DELETE FROM delta.`ROOT/instances` WHERE true'",
    "EXECUTE IMMEDIATE \"INSERT OVERWRITE DIRECTORY 'ROOT/objects' USING csv SELECT 1\"",
    "EXPLAIN EXECUTE IMMEDIATE 'DELETE FROM delta.`ROOT/instances` WHERE true'",
    "EXPLAIN INSERT INTO instances SELECT * FROM instances",
    "BEGIN DELETE FROM delta.`ROOT/instances`; END",
    "DELETE FROM delta.`ROOT/instances`",
    "UPDATE delta.`ROOT/instances` SET patient_id = 'X'",
    "MERGE INTO instances a USING runs b ON true WHEN MATCHED THEN DELETE",
    "FROM runs INSERT OVERWRITE DIRECTORY 'ROOT/out' USING csv SELECT *",
    "INSERT OVERWRITE DIRECTORY 'ROOT/out' USING csv SELECT 1",
    "CREATE TABLE made AS SELECT 1",
    "CREATE TEMPORARY VIEW instances AS SELECT 1",
    "CREATE TEMPORARY FUNCTION f AS 'x'",
    "CACHE TABLE made AS SELECT 1",
    "DROP TABLE instances",
    "TRUNCATE TABLE instances",
    "VACUUM delta.`ROOT/instances` RETAIN 0 HOURS",
    "RESTORE TABLE delta.`ROOT/instances` TO VERSION AS OF 0",
    "CALL system.anything()",
    "SET spark.sql.shuffle.partitions = 1",
    "SET VARIABLE x = 1",
    "DECLARE VARIABLE x INT",
    "RESET",
    "USE default",
    "ADD JAR 'x.jar'",
    "LIST JARS",
    "SELECT TRANSFORM(Rows) USING 'touch ROOT/ran' AS (y) FROM instances",
    "WITH a AS (SELECT TRANSFORM(Rows) USING 'touch ROOT/ran' AS (y) FROM runs) SELECT * FROM a",
    "SELECT * FROM STREAM instances",
    "SELECT '${env:HOME}'",
    "SELECT * FROM IDENTIFIER('te' || 'xt.`ROOT/secret`')",
]
FUNCTIONS = [
    "SELECT reflect('java.lang.System', 'getProperty', 'user.home')",
    "SELECT `REFLECT`('java.lang.System', 'gc')",
    "SELECT java_method('java.lang.System', 'gc')",
    "SELECT try_reflect('java.lang.System', 'gc')",
    "SELECT system.builtin.reflect('java.lang.System', 'gc')",
    "SELECT IDENTIFIER('reflect')('java.lang.System', 'gc')",
    "SELECT * FROM VALUES (reflect('java.lang.System', 'gc'))",
    "SELECT filter(array(1), x -> reflect('java.lang.System', 'gc') = x)",
    "SELECT sum(1) OVER (ORDER BY java_method('java.lang.System', 'gc')) FROM instances",
    "SELECT 1 FROM runs LATERAL VIEW explode(array(reflect('java.lang.System', 'gc'))) t AS z",
    "FROM runs |> EXTEND reflect('java.lang.System', 'gc') AS x",
    "EXPLAIN SELECT reflect('java.lang.System', 'gc')",
    "SELECT from_protobuf(dicom_json, 'm', 'ROOT/secret') FROM instances",
    "SELECT * FROM read_files('ROOT/secret')",
]
RELATIONS = [
    "SELECT * FROM text.`ROOT/secret`",
    "SELECT * FROM IDENTIFIER('text.`ROOT/secret`')",
    "SELECT * FROM delta.`ROOT/instances`",
    "SELECT (SELECT count(*) FROM csv.`ROOT/secret`)",
    "SELECT * FROM instances JOIN json.`ROOT/secret` ON true",
    "WITH a AS (SELECT * FROM parquet.`ROOT/secret`) SELECT 1",
    "WITH a AS (SELECT 1) SELECT * FROM a UNION SELECT * FROM orc.`ROOT/secret`",
    "SELECT 1 FROM runs WHERE started_at IN (SELECT * FROM text.`ROOT/secret`)",
    "VALUES (1) ORDER BY (SELECT 1 FROM text.`ROOT/secret`)",
    "EXPLAIN SELECT * FROM text.`ROOT/secret`",
    "DESCRIBE text.`ROOT/secret`",
    "DESCRIBE QUERY SELECT * FROM text.`ROOT/secret`",
    "SELECT * FROM somewhere.instances",
    "SELECT * FROM no_table_of_the_archive",
]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        *((statement, "expected a query, found") for statement in COMMANDS),
        *((statement, "expected functions of values alone") for statement in FUNCTIONS),
        *((statement, "expected a table of the archive") for statement in RELATIONS),
        (f"SELECT {'(' * 3000}1{')' * 3000}", "found one nested too deeply"),
    ],
)
def test_what_is_no_question__is_refused_in_one_line(
    archive: Archive, statement: str, message: str
) -> None:
    root = Path(archive.root)
    (root / "secret").write_text("secret")
    before = archive.versions()
    with pytest.raises(QueryError, match=f"^sql: .*{message}") as caught:
        collect(archive.sql(statement.replace("ROOT", str(root))))
    assert len(str(caught.value).splitlines()) == 1
    assert archive.versions().equals(before)
    assert not (root / "ran").exists()
    assert not (root / "out").exists()


KILLED = """
import os, signal, sys
import pacspark
from pacspark.cli import main
from pacspark.spark.jobs import run_tasks
from pacspark.spark.session import local_session

spark = local_session("local[1]")
process = spark._jvm.java.lang.ProcessHandle.current().pid()
try:
    run_tasks(spark, [process], lambda process: os.kill(process, signal.SIGKILL))
except pacspark.PacsparkError as error:
    print(f"JobError: {error}", file=sys.stderr)
sys.exit(main(["sql", sys.argv[1], "SELECT 1"]))
"""


def test_a_killed_spark__is_one_line(archive: Archive) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, archive.root],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 1
    line = "JobError: Spark ended unexpectedly: .*\n"
    assert re.fullmatch(line * 2, ended.stderr), ended.stderr
