"""How DICOM devices talk to the archive: one module per DIMSE service."""
