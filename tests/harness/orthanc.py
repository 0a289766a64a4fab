"""A real Orthanc: sender, C-MOVE destination and Storage Commitment SCU for the archive."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from harness.dcmtk import Peer
from harness.processes import Background, Server, free_port, program

# Environment variables may name a proxy, which knows nothing of this machine's loopback.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Orthanc(Server):
    """Orthanc on 127.0.0.1 with SQLite and storage in `folder`, no plug-ins, and everything allowed.

    Parameters
    ----------
    folder
        Where configuration, log, index and files go.
    ae_title
        Its AE title.
    modalities
        The DICOM applications it knows, by symbolic name.
    settings
        Further settings of Orthanc's configuration file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ae_title: str = "ORTHANC",
        modalities: Mapping[str, Peer] | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.peer = Peer("127.0.0.1", free_port(), ae_title)
        self.http_port = free_port()
        self.configuration: dict[str, object] = {
            "Name": ae_title,
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": ae_title,
            "DicomPort": self.peer.port,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "DicomAlwaysAllowMove": True,
            "DicomModalities": {
                name: [peer.ae_title, peer.host, peer.port] for name, peer in (modalities or {}).items()
            },
            "UnknownSopClassAccepted": True,
            "Plugins": [],
            **(settings or {}),
        }

    def start(self) -> Self:
        (self.folder / "storage").mkdir(parents=True, exist_ok=True)
        file = self.folder / "orthanc.json"
        file.write_text(json.dumps(self.configuration, indent=2), encoding="utf-8")
        self._background = Background([program("Orthanc"), "--verbose", str(file)], log=self.folder / "orthanc.log")
        self.background.wait_ready(self._answers)
        return self

    def _answers(self) -> bool:
        try:
            self.get("/system")
        except urllib.error.URLError:
            return False
        return True

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Call the REST API and return the body of the answer; urllib.error.HTTPError for a refusal."""
        url = f"http://127.0.0.1:{self.http_port}{path}"
        with _opener.open(urllib.request.Request(url, data=body, method=method), timeout=120) as response:
            content: bytes = response.read()
            return content

    def get(self, path: str) -> Any:
        """GET a JSON resource."""
        return json.loads(self.request("GET", path))

    def post(self, path: str, body: object) -> Any:
        """POST a JSON body and return the JSON answer."""
        return json.loads(self.request("POST", path, json.dumps(body).encode()))

    def upload(self, path: Path) -> str:
        """Give Orthanc a DICOM file and return its Orthanc identifier."""
        return str(json.loads(self.request("POST", "/instances", path.read_bytes()))["ID"])

    def add_modality(self, name: str, peer: Peer) -> None:
        """Make a DICOM application known by a symbolic name."""
        body = {"AET": peer.ae_title, "Host": peer.host, "Port": peer.port}
        self.request("PUT", f"/modalities/{name}", json.dumps(body).encode())

    def send(self, name: str, *identifiers: str) -> Any:
        """Send resources to a modality with C-STORE and return Orthanc's summary."""
        return self.post(f"/modalities/{name}/store", list(identifiers))
