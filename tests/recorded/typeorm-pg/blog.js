// An Express app with TypeORM; its lazy relations are promises.

const express = require("express");
const { DataSource, EntitySchema, MoreThan } = require("typeorm");

const { DATABASE_URL, PORT, STUB_URL } = process.env;
const Author = new EntitySchema({
  name: "Author",
  tableName: "authors",
  columns: { id: { type: Number, primary: true }, name: { type: String } },
});
const Post = new EntitySchema({
  name: "Post",
  tableName: "posts",
  columns: { id: { type: Number, primary: true }, title: { type: String } },
  relations: {
    author: { type: "many-to-one", target: "Author", lazy: true, joinColumn: { name: "author_id" } },
  },
});
const Visit = new EntitySchema({
  name: "Visit",
  tableName: "visits",
  columns: {
    id: { type: Number, primary: true, generated: "identity" },
    post_id: { type: Number },
  },
});
const db = new DataSource({ type: "postgres", url: DATABASE_URL, entities: [Author, Post, Visit] });

const app = express();
const latest = { order: { id: "DESC" }, take: 20 };
const posts = Array.from({ length: 20 }, (_, at) => at + 1);

function push(line) {
  return fetch(`${STUB_URL}/loki/api/v1/push`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ streams: [{ values: [["0", line]] }] }),
  });
}

// Sends what was gathered, behind the requests.
const lines = [];
setInterval(() => {
  for (const line of lines.splice(0)) push(line).catch(() => {});
}, 200);

async function pairs(found) {
  const pairs = [];
  for (const post of found) pairs.push([post.title, (await post.author).name]);
  return pairs;
}

app.get("/about", async (req, res) => {
  res.json({ authors: await db.getRepository(Author).count() });
});

app.get("/posts/lazy", async (req, res) => {
  res.json(await pairs(await db.getRepository(Post).find(latest)));
});

app.get("/posts/eager", async (req, res) => {
  const found = await db.getRepository(Post).find({ ...latest, relations: { author: true } });
  res.json(await pairs(found));
});

app.get("/posts/page", async (req, res) => {
  const [found, count] = await db.getRepository(Post).findAndCount({
    order: { id: "ASC" },
    take: 10,
    skip: 10 * (req.query.page - 1),
    relations: { author: true },
  });
  res.json({ posts: await pairs(found), of: count });
});

app.get("/posts/export", async (req, res) => {
  const titles = [];
  for (let last = 0; ; ) {
    const page = await db.getRepository(Post).find({ where: { id: MoreThan(last) }, order: { id: "ASC" }, take: 8 });
    if (page.length === 0) break;
    titles.push(...page.map((it) => it.title));
    last = page.at(-1).id;
  }
  res.json(titles);
});

app.post("/visits/rows", async (req, res) => {
  for (const post_id of posts) await db.getRepository(Visit).save({ post_id });
  res.json({});
});

app.post("/visits/bulk", async (req, res) => {
  await db.getRepository(Visit).insert(posts.map((post_id) => ({ post_id })));
  res.json({});
});

app.get("/report", async (req, res) => {
  const rows = await db.query(
    `SELECT a.name, count(*) FROM authors a JOIN posts p ON p.author_id = a.id
       CROSS JOIN generate_series(1, $1::int) g
      WHERE (p.id + g) % 7 = 0 GROUP BY a.name ORDER BY 2 DESC`,
    [150000],
  );
  res.json(rows);
});

app.post("/orders/log-sync", async (req, res) => {
  await push(`order of ${await db.getRepository(Author).count()}`);
  res.json({});
});

app.post("/orders/log-async", async (req, res) => {
  lines.push(`order of ${await db.getRepository(Author).count()}`);
  res.json({});
});

app.get("/prices/each", async (req, res) => {
  const prices = [];
  for (let id = 1; id <= 12; id++) {
    const answer = await fetch(`${STUB_URL}/prices/${id}`);
    prices.push(await answer.json());
  }
  res.json(prices);
});

app.get("/prices/batch", async (req, res) => {
  const answer = await fetch(`${STUB_URL}/prices?ids=1,2,3,4,5,6,7,8,9,10,11,12`);
  res.json(await answer.json());
});

db.initialize().then(() => app.listen(PORT, "127.0.0.1"));
