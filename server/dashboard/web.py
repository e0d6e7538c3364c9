"""The live web page of the runs in a folder: server-rendered, brought up to date by server-sent events, nothing from outside.

Made for the center's own network: it binds to loopback unless told otherwise, asks for a password, and lets a browser load
nothing from anywhere else.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Any, Literal
from urllib.parse import parse_qs, quote

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, StreamingResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.middleware.trustedhost import TrustedHostMiddleware

from server.dashboard.chart import curve_svg
from server.dashboard.control import Control
from server.dashboard.doors import Doors, Session
from server.dashboard.view import RunView, find_runs, look
from shared_model.errors import StudyError

COOKIE = "consilium_session"
EVERY_S = 1.0  # how often the journal is looked at while somebody watches
KEEP_ALIVE_S = 15.0
FORM_LIMIT = 4096
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# The report holds its own styles and figures, and needs no more.
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'unsafe-inline'; frame-ancestors 'none'"
)


def make_app(control: Control, doors: Doors, *, hosts: list[str], secure: bool) -> FastAPI:
    """The web application. ``hosts`` are the names under which it may be called, ``secure`` says that TLS is spoken."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    pages = Pages()

    @app.middleware("http")
    async def harden(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def session_of(request: Request) -> Session:
        session = doors.session(request.cookies.get(COOKIE))
        if session is None:
            raise HTTPException(303, headers={"Location": "/login"})
        return session

    async def form_of(request: Request) -> dict[str, str]:
        """The fields of a form that this page itself has sent."""
        session = session_of(request)
        fields = await _fields(request)
        if fields.get("form") != session.form:
            raise HTTPException(403, "this form is not of this session: load the page again")
        return fields

    @app.get("/login")
    def ask_password(wrong: int = 0) -> HTMLResponse:
        return HTMLResponse(pages.render("login.html", wrong=bool(wrong), closed=doors.closed))

    @app.post("/login")
    async def login(request: Request) -> Response:
        fields = await _fields(request)
        token = await run_in_threadpool(doors.login, fields.get("password", ""))
        if token is None:
            return RedirectResponse("/login?wrong=1", 303)
        response = RedirectResponse("/", 303)
        response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure)
        return response

    @app.post("/logout")
    async def logout(request: Request) -> Response:
        await form_of(request)
        doors.logout(request.cookies.get(COOKIE))
        return RedirectResponse("/login", 303)

    @app.get("/")
    def list_runs(request: Request, told: str = "") -> HTMLResponse:
        session = session_of(request)
        return HTMLResponse(
            pages.render("runs.html", runs=_all_runs(control), studies=control.launchable(), form=session.form, told=told)
        )

    @app.post("/start")
    async def start(request: Request) -> Response:
        fields = await form_of(request)
        return await _act(lambda: control.start(fields.get("study", ""), fields.get("name", "")), back="/")

    @app.get("/runs/{name}")
    def show_run(request: Request, name: str, told: str = "") -> HTMLResponse:
        session = session_of(request)
        return HTMLResponse(pages.render("run.html", run=_look(control, name), form=session.form, told=told))

    @app.get("/runs/{name}/live")
    async def live(request: Request, name: str) -> StreamingResponse:
        session_of(request)
        await run_in_threadpool(_look, control, name)  # 404 now rather than a broken stream
        return StreamingResponse(_stream(pages, control, name, request), media_type="text/event-stream")

    @app.get("/runs/{name}/report")
    def report(request: Request, name: str) -> FileResponse:
        session_of(request)
        try:
            page = control.directory(name) / "report.html"
        except StudyError as error:
            raise HTTPException(404, str(error)) from None
        if not page.exists():
            raise HTTPException(404, "there is no report yet")
        return FileResponse(page, media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})

    @app.post("/runs/{name}/{action}")
    async def act(request: Request, name: str, action: Literal["stop", "resume"]) -> Response:
        await form_of(request)
        return await _act(lambda: getattr(control, action)(name), back=f"/runs/{quote(name)}")

    @app.get("/static/{name}")
    def static(name: Literal["dashboard.css", "live.js"]) -> Response:
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        return Response(files("server.dashboard").joinpath(name).read_text(encoding="utf-8"), media_type=kind)

    return app


class Pages:
    """Templates of the page."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=PackageLoader("server", "dashboard"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.filters |= {"span": span, "curve": curve_svg}

    def render(self, name: str, **values: Any) -> str:
        """The template ``name`` filled with ``values``."""
        return self._templates.get_template(name).render(**values)


def span(seconds: float | None) -> str:
    """A time for people: 41 s, 12 min, 3 h 05 min."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


async def _stream(pages: Pages, control: Control, name: str, request: Request) -> AsyncIterator[str]:
    """The run's live part whenever it has changed, until the reader goes."""
    shown, quiet = "", 0.0
    while not await request.is_disconnected():
        try:
            fragment = await run_in_threadpool(lambda: pages.render("live.html", run=_look(control, name)))
        except HTTPException:
            return
        if fragment != shown:
            shown, quiet = fragment, 0.0
            yield "".join(f"data: {line}\n" for line in fragment.splitlines()) + "\n"
        elif quiet >= KEEP_ALIVE_S:
            quiet = 0.0
            yield ": still here\n\n"
        quiet += EVERY_S
        await asyncio.sleep(EVERY_S)


def _look(control: Control, name: str) -> RunView:
    try:
        return look(control.directory(name))
    except StudyError as error:
        raise HTTPException(404, str(error)) from None


def _all_runs(control: Control) -> list[RunView | str]:
    """Every run, or what is wrong with it: one that is damaged must not hide the others."""
    found: list[RunView | str] = []
    for directory in find_runs(control.runs):
        try:
            found.append(look(directory))
        except StudyError as error:
            found.append(f"{directory.name}: {error}")
    return found


async def _act(action: Callable[[], None], *, back: str) -> Response:
    try:
        await run_in_threadpool(action)
    except (StudyError, OSError) as error:
        return RedirectResponse(f"{back}?told={quote(str(error))}", 303)
    return RedirectResponse(back, 303)


async def _fields(request: Request) -> dict[str, str]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_LIMIT:
            raise HTTPException(413, "too much for a form of this page")
    return {name: values[0] for name, values in parse_qs(body.decode(errors="replace")).items()}
