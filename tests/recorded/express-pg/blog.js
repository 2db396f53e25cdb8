// An Express app with hand-written SQL on pg.

const express = require("express");
const { Client, Pool } = require("pg");

const { DATABASE_URL, PORT, STUB_URL } = process.env;
const pool = new Pool({ connectionString: DATABASE_URL, max: 4 });
const app = express();
app.use(express.json());

const LATEST = "SELECT id, author_id, title FROM posts ORDER BY id DESC LIMIT 20";
const AUTHOR = "SELECT name FROM authors WHERE id = $1";
const posts = Array.from({ length: 20 }, (_, at) => at + 1);

function push(line) {
  return fetch(`${STUB_URL}/loki/api/v1/push`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ streams: [{ values: [["0", line]] }] }),
  });
}

app.get("/about", async (req, res) => {
  const { rows } = await pool.query("SELECT count(*) FROM authors");
  res.json(rows);
});

app.get("/posts/lazy", async (req, res) => {
  const { rows } = await pool.query(LATEST);
  const pairs = [];
  for (const post of rows) {
    const author = await pool.query(AUTHOR, [post.author_id]);
    pairs.push([post.title, author.rows[0].name]);
  }
  res.json(pairs);
});

app.get("/posts/gather", async (req, res) => {
  const { rows } = await pool.query(LATEST);
  const pairs = rows.map(async (post) => {
    const author = await pool.query(AUTHOR, [post.author_id]);
    return [post.title, author.rows[0].name];
  });
  res.json(await Promise.all(pairs));
});

app.get("/posts/eager", async (req, res) => {
  const { rows } = await pool.query(LATEST);
  const ids = rows.map((it) => it.author_id);
  const authors = await pool.query("SELECT id, name FROM authors WHERE id = ANY($1)", [ids]);
  const names = new Map(authors.rows.map((it) => [it.id, it.name]));
  res.json(rows.map((it) => [it.title, names.get(it.author_id)]));
});

app.get("/posts/page", async (req, res) => {
  const count = await pool.query("SELECT count(*) FROM posts");
  const { rows } = await pool.query(
    "SELECT title, name FROM posts JOIN authors ON authors.id = author_id ORDER BY posts.id LIMIT 10 OFFSET $1",
    [10 * (req.query.page - 1)],
  );
  res.json({ rows, of: count.rows[0].count });
});

app.get("/posts/export", async (req, res) => {
  const titles = [];
  for (let last = 0; ; ) {
    const { rows } = await pool.query("SELECT id, title FROM posts WHERE id > $1 ORDER BY id LIMIT 8", [last]);
    if (rows.length === 0) break;
    titles.push(...rows.map((it) => it.title));
    last = rows.at(-1).id;
  }
  res.json(titles);
});

app.post("/visits/rows", async (req, res) => {
  for (const post of posts) {
    await pool.query("INSERT INTO visits (post_id) VALUES ($1)", [post]);
  }
  res.json({});
});

app.post("/visits/bulk", async (req, res) => {
  await pool.query("INSERT INTO visits (post_id) SELECT unnest($1::int[])", [posts]);
  res.json({});
});

app.get("/report", async (req, res) => {
  const { rows } = await pool.query(
    `SELECT a.name, count(*) FROM authors a JOIN posts p ON p.author_id = a.id
       CROSS JOIN generate_series(1, $1::int) g
      WHERE (p.id + g) % 7 = 0 GROUP BY a.name ORDER BY 2 DESC`,
    [150000],
  );
  res.json(rows);
});

app.post("/orders/log-sync", async (req, res) => {
  await pool.query("SELECT count(*) FROM authors");
  await push("an order");
  res.json({});
});

app.post("/orders/log-async", async (req, res) => {
  await pool.query("SELECT count(*) FROM authors");
  push("an order").catch(() => {});
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

app.get("/connect", async (req, res) => {
  const names = [];
  for (const query of ["SELECT name FROM authors WHERE id = 1", "SELECT title FROM posts WHERE id = 1"]) {
    const client = new Client({ connectionString: DATABASE_URL });
    await client.connect();
    names.push((await client.query(query)).rows[0]);
    await client.end();
  }
  res.json(names);
});

app.listen(PORT, "127.0.0.1");
