"""Synthetic studies of an angiography suite, for the `demo` command and for tests: no patient is shown in them.

The pictures follow the physics: X-rays are attenuated along their way (Beer-Lambert), vessels branch and taper, a bolus
flows through them, noise is that of quanta. Standard library and pydicom only.
"""

from angiovault.phantom.angiography import dsa_run, rotational_run
from angiovault.phantom.demo import PATIENTS, demo_studies
from angiovault.phantom.dose import dose_report
from angiovault.phantom.encoding import VerbatimElement, encode, write
from angiovault.phantom.identity import Patient, Study
from angiovault.phantom.presentation import grayscale_presentation_state
from angiovault.phantom.private import private_objects
from angiovault.phantom.scenes import HEAD, HEAD_LATERAL, KNEE, LIVER
from angiovault.phantom.volume import ct_volume

__all__ = [
    "HEAD",
    "HEAD_LATERAL",
    "KNEE",
    "LIVER",
    "PATIENTS",
    "Patient",
    "Study",
    "VerbatimElement",
    "ct_volume",
    "demo_studies",
    "dose_report",
    "dsa_run",
    "encode",
    "grayscale_presentation_state",
    "private_objects",
    "rotational_run",
    "write",
]
