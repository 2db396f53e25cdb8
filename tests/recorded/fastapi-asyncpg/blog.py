"""A FastAPI app with hand-written SQL on asyncpg."""

import asyncio
import contextlib
import os

import asyncpg
import httpx
from fastapi import FastAPI

URL = os.environ["DATABASE_URL"]
STUB_URL = os.environ["STUB_URL"]

lines = asyncio.Queue()


@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.http = httpx.AsyncClient()
    async with asyncpg.create_pool(URL, min_size=1, max_size=8) as app.state.pool:
        shipping = asyncio.create_task(ship())
        yield
        shipping.cancel()


app = FastAPI(lifespan=lifespan)


async def push(line):
    body = {"streams": [{"values": [["0", line]]}]}
    await app.state.http.post(f"{STUB_URL}/loki/api/v1/push", json=body)


async def ship():
    """Sends what the queue holds, behind the requests."""
    while True:
        await push(await lines.get())


@app.get("/about")
async def about():
    return {"authors": await app.state.pool.fetchval("SELECT count(*) FROM authors")}


@app.get("/posts/lazy")
async def posts_lazy():
    async with app.state.pool.acquire() as db:
        posts = await db.fetch("SELECT id, author_id, title FROM posts ORDER BY id DESC LIMIT 20")
        names = [await db.fetchval("SELECT name FROM authors WHERE id = $1", it["author_id"]) for it in posts]
    return list(zip((it["title"] for it in posts), names))


@app.get("/posts/gather")
async def posts_gather():
    """As lazy, at the same time: eight connections, twenty queries."""
    pool = app.state.pool
    posts = await pool.fetch("SELECT id, author_id, title FROM posts ORDER BY id DESC LIMIT 20")
    names = [pool.fetchval("SELECT name FROM authors WHERE id = $1", it["author_id"]) for it in posts]
    return list(zip((it["title"] for it in posts), await asyncio.gather(*names)))


@app.get("/posts/eager")
async def posts_eager():
    async with app.state.pool.acquire() as db:
        posts = await db.fetch("SELECT id, author_id, title FROM posts ORDER BY id DESC LIMIT 20")
        ids = [it["author_id"] for it in posts]
        authors = await db.fetch("SELECT id, name FROM authors WHERE id = ANY($1)", ids)
    names = {it["id"]: it["name"] for it in authors}
    return [(it["title"], names[it["author_id"]]) for it in posts]


@app.get("/posts/page")
async def posts_page(page: int):
    async with app.state.pool.acquire() as db:
        count = await db.fetchval("SELECT count(*) FROM posts")
        query = "SELECT title, name FROM posts JOIN authors ON authors.id = author_id ORDER BY posts.id LIMIT $1 OFFSET $2"
        posts = await db.fetch(query, 10, 10 * (page - 1))
    return {"posts": [tuple(it) for it in posts], "of": count}


@app.get("/posts/export")
async def posts_export():
    titles, last = [], 0
    async with app.state.pool.acquire() as db:
        while page := await db.fetch("SELECT id, title FROM posts WHERE id > $1 ORDER BY id LIMIT 8", last):
            titles += [it["title"] for it in page]
            last = page[-1]["id"]
    return titles


@app.post("/visits/rows")
async def visits_rows():
    async with app.state.pool.acquire() as db, db.transaction():
        for post in range(1, 21):
            await db.execute("INSERT INTO visits (post_id) VALUES ($1)", post)


@app.post("/visits/bulk")
async def visits_bulk():
    async with app.state.pool.acquire() as db:
        await db.executemany("INSERT INTO visits (post_id) VALUES ($1)", [(post,) for post in range(1, 21)])


@app.get("/report")
async def report():
    query = (
        "SELECT a.name, count(*) FROM authors a JOIN posts p ON p.author_id = a.id"
        " CROSS JOIN generate_series(1, $1::int) g WHERE (p.id + g) % 7 = 0 GROUP BY a.name ORDER BY 2 DESC"
    )
    return [tuple(it) for it in await app.state.pool.fetch(query, 150000)]


@app.post("/orders/log-sync")
async def orders_log_sync():
    await push(f"order of {await app.state.pool.fetchval('SELECT count(*) FROM authors')}")


@app.post("/orders/log-async")
async def orders_log_async():
    lines.put_nowait(f"order of {await app.state.pool.fetchval('SELECT count(*) FROM authors')}")


@app.get("/prices/each")
async def prices_each():
    return [(await app.state.http.get(f"{STUB_URL}/prices/{it}")).json() for it in range(1, 13)]


@app.get("/prices/batch")
async def prices_batch():
    ids = ",".join(str(it) for it in range(1, 13))
    return (await app.state.http.get(f"{STUB_URL}/prices", params={"ids": ids})).json()


@app.get("/connect")
async def connect():
    names = []
    for query in ("SELECT name FROM authors WHERE id = 1", "SELECT title FROM posts WHERE id = 1"):
        db = await asyncpg.connect(URL)
        names.append(await db.fetchval(query))
        await db.close()
    return names
