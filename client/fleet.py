"""Does the center accept this site's key? Asks as Flower's SuperNode does, and says goodbye at once."""

from pathlib import Path
from typing import Literal

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

Verdict = Literal["accepted", "unknown", "unauthenticated", "unavailable"]
_INTERVAL_S = 10.0  # if the goodbye is lost, the center forgets this visit after twice that


def ask_center(address: str, *, authorities: Path, key_file: Path) -> tuple[Verdict, str]:
    """Whether the center at ``address`` accepts the key; and its own words where it does not."""
    key = load_ssh_private_key(key_file.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    interceptors = [NodeAuthHttpInterceptor(key, key.public_key())]
    try:
        with FleetHttpClient.from_server_address(address, False, str(authorities), interceptors) as client:
            request = ActivateNodeRequest(public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=_INTERVAL_S)
            node = client.ActivateNode(request).node_id
            client.DeactivateNode(DeactivateNodeRequest(node_id=node))
            return "accepted", ""
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status == httpx.codes.UNAUTHORIZED:
            return "unauthenticated", f"HTTP {status}"
        return ("unknown" if status == httpx.codes.PRECONDITION_FAILED else "unavailable"), f"HTTP {status}"
    except httpx.HTTPError as error:
        return "unavailable", f"{type(error).__name__}: {error}"
