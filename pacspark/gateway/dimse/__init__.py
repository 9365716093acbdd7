"""The DIMSE door: connections, associations, one module per service."""
