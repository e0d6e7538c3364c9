"""A line between a hospital and its center that a test can harm: an HTTP CONNECT proxy, as hospitals have, in asyncio.

What it carries is TLS, so it can delay, cut and lose bytes, and change none.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Literal

PIECE = 16 * 1024
Mode = Literal["open", "partition", "half-open", "outage"]


@dataclass(eq=False)
class _Link:
    hospital: asyncio.StreamWriter
    center: asyncio.StreamWriter
    up: int = 0  # bytes from the hospital


@dataclass
class Proxy:
    """``mode``: ``open`` carries; ``partition`` carries nothing more, and accepts nothing; ``half-open`` accepts and then is
    silent; ``outage`` ends every connection at once. ``rate`` limits bytes a second each way; ``reset_after``
    resets, once, the connection that has carried so many bytes to the center."""

    port: int = 0
    mode: Mode = "open"
    rate: float | None = None
    reset_after: int | None = None
    resets: int = 0
    carried: int = 0
    _links: set[_Link] = field(default_factory=set)
    _free: list[float] = field(default_factory=lambda: [0.0, 0.0])  # when the line is free again, down and up
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @classmethod
    @contextmanager
    def running(cls) -> Iterator["Proxy"]:
        proxy = cls()
        listener = socket.create_server(("127.0.0.1", 0))
        proxy.port = listener.getsockname()[1]
        thread = Thread(target=proxy._run, args=(listener,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy._loop.call_soon_threadsafe(proxy._loop.stop)
            thread.join(10.0)

    def harm(self, mode: Mode) -> None:
        """Change the mode now. A hospital that was cut off, and the center, both still believe in their connections."""
        self.mode = mode
        if mode == "outage":
            self._loop.call_soon_threadsafe(self._reset_all)

    def mend(self) -> None:
        """Carry again. What was silent stays so: its bytes are lost."""
        self.rate = self.reset_after = None
        if self.mode != "open":
            self._loop.call_soon_threadsafe(self._reset_all)
        self.mode = "open"

    def _run(self, listener: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._welcome, sock=listener))
        self._loop.run_forever()
        server.close()
        self._reset_all()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode in {"partition", "outage"}:
            _reset(writer)
            return
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)
            host, _, port = request[1].decode().rpartition(":")
            center_reader, center = await asyncio.open_connection(host, int(port))
        except (OSError, asyncio.IncompleteReadError, ValueError):
            _reset(writer)
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        link = _Link(writer, center)
        self._links.add(link)
        try:
            await asyncio.gather(self._carry(link, reader, center, up=True), self._carry(link, center_reader, writer, up=False))
        finally:
            self._links.discard(link)
            for end in (writer, center):
                end.close()

    async def _carry(self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, up: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(PIECE if self.rate is None else 1024):
                while self.mode in {"partition", "half-open"}:
                    await asyncio.sleep(0.1)
                await self._take_time(len(piece), up=up)
                self.carried += len(piece)
                sink.write(piece)
                await sink.drain()
                if up:
                    link.up += len(piece)
                    self._perhaps_reset(link)
            if sink.can_write_eof():
                sink.write_eof()

    async def _take_time(self, size: int, *, up: bool) -> None:
        """All connections share the line, in each direction."""
        if self.rate is None:
            return
        now = self._loop.time()
        self._free[up] = max(self._free[up], now) + size / self.rate
        await asyncio.sleep(self._free[up] - now)

    def _perhaps_reset(self, link: _Link) -> None:
        if self.reset_after is not None and link.up >= self.reset_after:
            self.reset_after = None
            self.resets += 1
            self._reset_link(link)

    def _reset_all(self) -> None:
        for link in list(self._links):
            self._reset_link(link)

    @staticmethod
    def _reset_link(link: _Link) -> None:
        for end in (link.hospital, link.center):
            _reset(end)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST."""
    stream = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
