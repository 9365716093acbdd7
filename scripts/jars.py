"""Fetch jars from Maven Central into the cache, once: what Spark and the tests' HDFS run on.

Usage: jars.py delta|s3|hdfs|yarn ...
Spark's own Ivy resolves and checks them, so neither Maven nor anything else is needed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pacspark.spark.session import (
    DELTA_PACKAGE,
    EXCLUDED_PACKAGES,
    HADOOP_AWS_PACKAGE,
    jar_folder,
)

PACKAGES = {
    "delta": (DELTA_PACKAGE, EXCLUDED_PACKAGES),
    "s3": (HADOOP_AWS_PACKAGE, EXCLUDED_PACKAGES),
    # with everything it depends on: these daemons run without Spark's jars
    "hdfs": ("org.apache.hadoop:hadoop-client-minicluster:3.5.0", ""),
    # the resource manager makes certificates, and its jar lacks what that takes
    "yarn": ("org.bouncycastle:bcpkix-jdk18on:1.82", ""),
}


def fetch(name: str) -> None:
    """Resolve one package and its dependencies into its folder of the cache."""
    folder = jar_folder(name)
    if any(folder.glob("*.jar")):
        return
    package, excluded = PACKAGES[name]
    print(f"fetching {package} (once)", file=sys.stderr)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        jars = Path(work) / "jars"
        probe = Path(work) / "probe.py"
        probe.write_text("")
        import pyspark

        command = [
            str(Path(pyspark.__file__).parent / "bin" / "spark-submit"),
            "--packages", package,
            *(["--exclude-packages", excluded] if excluded else []),
            "--conf", f"spark.jars.ivy={work}",
            str(probe),
        ]  # fmt: skip
        environment = os.environ | {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        found = sorted(jars.glob("*.jar"))
        if not found:
            print("\n".join(done.stderr.splitlines()[-5:]), file=sys.stderr)
            sys.exit(f"{package}: could not be fetched from Maven Central")
        ready = Path(work) / "ready"
        ready.mkdir()
        for jar in found:
            shutil.move(jar, ready / jar.name)
        ready.rename(folder)


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        fetch(wanted)
