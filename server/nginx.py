"""The only door of the center: nginx with TLS, which lets hospitals reach Flower's Fleet API and nothing else.

SuperLink serves fleet, control and runtime interfaces at one port, and the control interface asks nobody who they are: it
may be reached on this machine only.
"""

import contextlib
import os
import signal
from pathlib import Path

BODY_LIMIT = "16m"  # Flower sends a model in pieces of 5 MiB
_CONFIGURATION = """\
daemon off;
worker_processes 1;
pid {state}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    server_tokens off;
    client_body_temp_path {state}/nginx;
    proxy_temp_path {state}/nginx;
    fastcgi_temp_path {state}/nginx;
    uwsgi_temp_path {state}/nginx;
    scgi_temp_path {state}/nginx;
    client_max_body_size {limit};
    client_body_timeout 120s;
    keepalive_timeout 75s;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:tls:4m;
    ssl_session_tickets off;
    upstream superlink {{
        server {upstream};
        keepalive 32;
    }}
    server {{
        listen {listen} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location /v1/fleet/ {{
            limit_except POST {{ deny all; }}
            proxy_pass https://superlink;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {root};
            proxy_ssl_name localhost;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_request_buffering off;
            proxy_buffering off;
            proxy_read_timeout 120s;
            # A SuperLink whose database was busy says 500, on which a SuperNode gives up for good; on 503 it tries again.
            proxy_intercept_errors on;
            error_page 500 =503 @busy;
        }}
        location @busy {{ return 503; }}
        location / {{ return 403; }}
    }}
}}
"""


def configuration(*, bind: str, port: int, upstream: str, certificate: Path, key: Path, root: Path, state: Path) -> str:
    """nginx.conf: TLS at ``bind`` and ``port``, the Fleet API of the SuperLink at ``upstream`` behind it, 403 for the rest."""
    listen = f"[{bind}]:{port}" if ":" in bind else f"{bind}:{port}"
    return _CONFIGURATION.format(
        state=state, limit=BODY_LIMIT, upstream=upstream, listen=listen, certificate=certificate, key=key, root=root
    )


def end_orphans(log: Path) -> None:
    """Kill nginx processes that write to ``log``: workers whose master was killed live on, and hold the port (Linux)."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "exe").readlink().name == "nginx" and (process / "fd" / "2").readlink() == log:
                os.kill(int(process.name), signal.SIGKILL)
