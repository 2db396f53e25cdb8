"""A Flask app with SQLAlchemy's ORM on psycopg2."""

import logging
import logging.handlers
import os
import queue

import requests
from flask import Flask, jsonify, request
from sqlalchemy import ForeignKey, NullPool, create_engine, func, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, joinedload, mapped_column, relationship

URL = os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg2:")
STUB_URL = os.environ["STUB_URL"]

app = Flask(__name__)
engine = create_engine(URL)
# A connection for each checkout, as behind an external pooler.
unpooled = create_engine(URL, poolclass=NullPool)
http = requests.Session()


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Post(Base):
    __tablename__ = "posts"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"))
    title: Mapped[str]
    author: Mapped[Author] = relationship()


class Visit(Base):
    __tablename__ = "visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    post_id: Mapped[int] = mapped_column(ForeignKey("posts.id"))


class LokiHandler(logging.Handler):
    """Sends each line on its own and waits for the answer."""

    def emit(self, record):
        http.post(f"{STUB_URL}/loki/api/v1/push", json={"streams": [{"values": [["0", record.getMessage()]]}]})


sync_log = logging.getLogger("orders.sync")
sync_log.addHandler(LokiHandler())
async_log = logging.getLogger("orders.async")
lines = queue.SimpleQueue()
async_log.addHandler(logging.handlers.QueueHandler(lines))
logging.handlers.QueueListener(lines, LokiHandler()).start()


def pairs(posts):
    return jsonify([[it.title, it.author.name] for it in posts])


@app.get("/about")
def about():
    with Session(engine) as session:
        return jsonify(authors=session.scalar(select(func.count()).select_from(Author)))


@app.get("/posts/lazy")
def posts_lazy():
    with Session(engine) as session:
        return pairs(session.scalars(select(Post).order_by(Post.id.desc()).limit(20)))


@app.get("/posts/eager")
def posts_eager():
    with Session(engine) as session:
        query = select(Post).options(joinedload(Post.author)).order_by(Post.id.desc()).limit(20)
        return pairs(session.scalars(query))


@app.get("/posts/page")
def posts_page():
    page = int(request.args["page"])
    with Session(engine) as session:
        count = session.scalar(select(func.count()).select_from(Post))
        query = select(Post).options(joinedload(Post.author)).order_by(Post.id)
        posts = session.scalars(query.limit(10).offset(10 * (page - 1)))
        return jsonify(posts=[[it.title, it.author.name] for it in posts], of=count)


@app.get("/posts/export")
def posts_export():
    titles, last = [], 0
    with Session(engine) as session:
        while page := session.scalars(select(Post).where(Post.id > last).order_by(Post.id).limit(8)).all():
            titles += [it.title for it in page]
            last = page[-1].id
    return jsonify(titles)


@app.post("/visits/rows")
def visits_rows():
    with Session(engine) as session:
        for post in range(1, 21):
            session.add(Visit(post_id=post))
            session.flush()
        session.commit()
    return jsonify({})


@app.post("/visits/bulk")
def visits_bulk():
    with Session(engine) as session:
        session.execute(insert(Visit), [{"post_id": post} for post in range(1, 21)])
        session.commit()
    return jsonify({})


@app.get("/report")
def report():
    with Session(engine) as session:
        query = text(
            "SELECT a.name, count(*) FROM authors a JOIN posts p ON p.author_id = a.id"
            " CROSS JOIN generate_series(1, :size) g WHERE (p.id + g) % 7 = 0 GROUP BY a.name ORDER BY 2 DESC"
        )
        return jsonify([list(it) for it in session.execute(query, {"size": 150000})])


@app.post("/orders/log-sync")
def orders_log_sync():
    with Session(engine) as session:
        sync_log.warning("order of %s", session.scalar(select(func.count()).select_from(Author)))
    return jsonify({})


@app.post("/orders/log-async")
def orders_log_async():
    with Session(engine) as session:
        async_log.warning("order of %s", session.scalar(select(func.count()).select_from(Author)))
    return jsonify({})


@app.get("/prices/each")
def prices_each():
    return jsonify([http.get(f"{STUB_URL}/prices/{it}").json() for it in range(1, 13)])


@app.get("/prices/batch")
def prices_batch():
    ids = ",".join(str(it) for it in range(1, 13))
    return jsonify(http.get(f"{STUB_URL}/prices", params={"ids": ids}).json())


@app.get("/connect")
def connect():
    names = []
    for query in (select(Author.name).where(Author.id == 1), select(Post.title).where(Post.id == 1)):
        with unpooled.connect() as connection:
            names.append(connection.scalar(query))
    return jsonify(names)
