"""Does the center accept this site's key? Asks as Flower's SuperNode does, and leaves nothing changed at the center."""

from pathlib import Path
from typing import Literal

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

Standing = Literal["enrolled", "unknown", "unavailable"]
Verdict = Literal["accepted", "unknown", "unauthenticated", "unavailable"]
_INTERVAL_S = 10.0  # if the goodbye is lost, the center forgets this visit after twice that


def ask_center(address: str, *, authorities: Path, key_file: Path) -> tuple[Verdict, str]:
    """Whether the center at ``address`` accepts the key; and its own words where it does not. Lets the site be online for a
    moment, and says goodbye."""
    key = _read_key(key_file)
    try:
        with _client(address, authorities, key) as client:
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


def ask_standing(address: str, *, authorities: Path, key_file: Path, node: int) -> Standing:
    """Whether the center still knows the key that was once let in as ``node``, online or not. Every request is checked for
    that first, so one for a run that there is none of will do. With a wrong clock here, all keys are unknown."""
    try:
        with _client(address, authorities, _read_key(key_file)) as client:
            client.GetRun(GetRunRequest(node=Node(node_id=node), run_id=0))
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status == httpx.codes.UNAUTHORIZED:
            return "unknown"
        return "enrolled" if status == httpx.codes.FORBIDDEN else "unavailable"
    except httpx.HTTPError:
        return "unavailable"
    return "enrolled"


def _client(address: str, authorities: Path, key: ec.EllipticCurvePrivateKey) -> FleetHttpClient:
    interceptors = [NodeAuthHttpInterceptor(key, key.public_key())]
    return FleetHttpClient.from_server_address(address, False, str(authorities), interceptors)


def _read_key(file: Path) -> ec.EllipticCurvePrivateKey:
    key = load_ssh_private_key(file.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key
