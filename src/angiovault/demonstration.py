"""The `demo` command: phantom studies, sent through the network door like any modality's."""

from __future__ import annotations

from pydicom import Dataset

from angiovault import phantom
from angiovault.dimse import messages, sop_classes
from angiovault.dimse.endings import CannotAssociate
from angiovault.dimse.scu import (
    Destination,
    Limits,
    associate,
    response_status,
    storage_contexts,
    store_request,
)
from angiovault.progress import Progress


def run(destination: Destination, limits: Limits, seed: int) -> None:
    """Make the demo's studies and send them.

    Raises
    ------
    CannotAssociate, AssociationEnded
        When they cannot be sent.
    """
    for description, data_sets in phantom.demo_studies(seed):
        with Progress(description) as progress:
            send(destination, limits, list(data_sets), progress)


def send(destination: Destination, limits: Limits, data_sets: list[Dataset], progress: Progress) -> None:
    """Send data sets in Explicit VR Little Endian.

    Raises
    ------
    CannotAssociate, AssociationEnded
        When one of them is not taken.
    """
    pairs = [(str(item.SOPClassUID), sop_classes.EXPLICIT_VR_LE) for item in data_sets]
    for contexts in storage_contexts(pairs):
        classes = {context.abstract_syntax for context in contexts}
        with associate(destination, contexts, limits) as association:
            for item in (one for one in data_sets if one.SOPClassUID in classes):
                context = association.find_context(str(item.SOPClassUID), sop_classes.EXPLICIT_VR_LE)
                if context is None:
                    raise CannotAssociate(f"{destination} does not take {sop_classes.name(str(item.SOPClassUID))}")
                encoded = phantom.encode(item, sop_classes.EXPLICIT_VR_LE)
                request = store_request(str(item.SOPClassUID), str(item.SOPInstanceUID))
                message_id = association.request(context, request, encoded)
                status = response_status(association, message_id, limits.response_timeout)
                if status != messages.SUCCESS:
                    raise CannotAssociate(f"{destination} refuses {item.SOPInstanceUID} with status {status:04X}")
                progress.advance(1, len(encoded))
