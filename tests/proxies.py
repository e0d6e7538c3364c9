"""The proxy of a hospital: the only way out. It knows where names are, asks for a password, and may look into TLS."""

import asyncio
import base64
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from urllib.parse import quote

USER, PASSWORD = "relay", "p@ss:word/1"
_PIECE = 65_536


@dataclass
class Proxy:
    """What is known of a running proxy: its port, and every request line that it got, with what it answered."""

    port: int = 0
    seen: list[tuple[str, int]] = field(default_factory=list)
    bytes_passed: int = 0

    @property
    def url(self) -> str:
        """As HTTPS_PROXY names it."""
        return f"http://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}"


@contextmanager
def proxy(
    routes: dict[str, tuple[str, int]], *, looking_in: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
) -> Iterator[Proxy]:
    """A proxy that connects (CONNECT) to the keys ``NAME:PORT`` of ``routes``, each at the address of its value, and to nothing
    else. With ``looking_in`` it is the server to the one side and a client to the other, by these two contexts."""
    made = Proxy()
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(
        asyncio.start_server(lambda reader, writer: _serve(made, routes, looking_in, reader, writer), "127.0.0.1", 0)
    )
    made.port = server.sockets[0].getsockname()[1]
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result(10.0)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10.0)
        loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0.1)  # transports that were aborted are gone one turn later


async def _serve(
    made: Proxy,
    routes: dict[str, tuple[str, int]],
    looking_in: tuple[ssl.SSLContext, ssl.SSLContext] | None,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    target: asyncio.StreamWriter | None = None
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = _status(head, routes)
        made.seen.append((head[0], status))
        if status != 200:
            writer.write(f"HTTP/1.1 {status} No\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            return
        name = head[0].split()[1]
        ours, theirs = looking_in or (None, None)
        target_reader, target = await asyncio.open_connection(
            *routes[name], ssl=theirs, server_hostname=name.rpartition(":")[0] if theirs else None
        )
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.drain()
        if ours:
            await writer.start_tls(ours)
        await asyncio.gather(_pass_on(made, reader, target), _pass_on(made, target_reader, writer))
    except (OSError, asyncio.IncompleteReadError):
        return
    finally:
        for stream in (writer, target):
            if stream is not None:
                stream.transport.abort()


def _status(head: list[str], routes: dict[str, tuple[str, int]]) -> int:
    wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    told = {line.split(": ", 1)[0].lower(): line.split(": ", 1)[1] for line in head[1:] if ": " in line}
    if told.get("proxy-authorization") != wanted:
        return 407
    method, target, _ = head[0].split()
    return 200 if method == "CONNECT" and target in routes else 403


async def _pass_on(made: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while part := await reader.read(_PIECE):
            made.bytes_passed += len(part)
            writer.write(part)
            await writer.drain()
    except OSError:
        pass
    finally:
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()
