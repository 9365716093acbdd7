"""What scanners and other programs write beside their frames, turned into a ``SCAN.toml``."""
