"""The HTTP door: DICOMweb, the viewer, pages."""
