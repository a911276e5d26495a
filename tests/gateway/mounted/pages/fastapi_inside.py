"""An existing FastAPI application below /shop, with its own startup and shutdown."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

log: list[str] = []


@asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncGenerator[dict[str, str]]:
    log.append("up")
    yield {"greeting": "hello"}
    log.append("down")


shop = FastAPI(lifespan=lifespan)


@shop.get("/hello")
async def hello(request: Request) -> dict[str, str]:
    return {"greeting": request.state.greeting, "url": str(request.url_for("hello").path)}


@shop.get("/broken")
async def broken() -> None:
    raise ValueError("secret")


mounts = {"/shop": shop}
