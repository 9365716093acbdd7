"""The door: DIMSE and DICOMweb over one archive, in one process without a JVM."""
