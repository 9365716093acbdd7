"""``SCAN.toml`` and the files that it names: TIFF, HDF5, NumPy, PNG, raw. No DICOM."""
