"""An existing FastAPI application with modules in it: its own routes use the bus, and the gateway answers below /modules."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

from fissile import App
from fissile_gateway import MountedGateway
from tests.gateway.mounted import library

modules = MountedGateway()


@asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncGenerator[None]:
    # Where the modules run in processes of their own: `fissile.client()` in the place of `App([...])`.
    async with App([library.module]) as app, modules.over(app):
        api.state.bus = app.bus
        yield


api = FastAPI(lifespan=lifespan)
api.mount("/modules", modules)


@api.get("/books/{isbn}")
async def book(isbn: str, request: Request) -> dict[str, str]:
    return {"isbn": isbn, "title": await request.app.state.bus.ask(library.GetTitle(isbn))}
