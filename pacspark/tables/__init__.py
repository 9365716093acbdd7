"""The store: tables in Delta on a local disk, HDFS or S3, through pyarrow and delta-rs, no JVM."""
