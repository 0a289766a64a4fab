"""The archive's yardstick: the same work done by it, by other DICOM archives and by a plain sink, side by side.

The peers are the real programs that the tests use, started by the same harness, which lies in `tests`.
"""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

if str(REPOSITORY / "tests") not in sys.path:
    sys.path.insert(0, str(REPOSITORY / "tests"))
