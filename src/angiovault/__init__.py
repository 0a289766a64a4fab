"""AngioVault: a DICOM archive (PACS) for the angiography suite."""

__version__ = "0.1.0"

IMPLEMENTATION_CLASS_UID = "2.25.269718640270236512904217306142803463169"
"""Implementation Class UID (PS3.7 D.3.3.2); a UUID-derived UID, PS3.5 B.2."""

IMPLEMENTATION_VERSION_NAME = "ANGIOVAULT_" + ".".join(__version__.split(".")[:2])
"""Implementation Version Name (PS3.7 D.3.3.2.3), at most 16 characters."""
