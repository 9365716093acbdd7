"""The standard: what the archive knows of DICOM objects, from their bytes to their queries."""
