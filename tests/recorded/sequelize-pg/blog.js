// An Express app with Sequelize.

const express = require("express");
const { DataTypes, Op, QueryTypes, Sequelize } = require("sequelize");

const { DATABASE_URL, PORT, STUB_URL } = process.env;
const db = new Sequelize(DATABASE_URL, { logging: false, define: { timestamps: false } });
const Author = db.define("author", { name: DataTypes.TEXT });
const Post = db.define("post", { title: DataTypes.TEXT });
const Visit = db.define("visit", {});
Post.belongsTo(Author, { foreignKey: "author_id" });
Visit.belongsTo(Post, { foreignKey: "post_id" });

const app = express();
const latest = { order: [["id", "DESC"]], limit: 20 };
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

app.get("/about", async (req, res) => {
  res.json({ authors: await Author.count() });
});

app.get("/posts/lazy", async (req, res) => {
  const pairs = [];
  for (const post of await Post.findAll(latest)) {
    const author = await post.getAuthor();
    pairs.push([post.title, author.name]);
  }
  res.json(pairs);
});

app.get("/posts/gather", async (req, res) => {
  const found = await Post.findAll(latest);
  const pairs = found.map(async (post) => [post.title, (await post.getAuthor()).name]);
  res.json(await Promise.all(pairs));
});

app.get("/posts/eager", async (req, res) => {
  const found = await Post.findAll({ ...latest, include: [Author] });
  res.json(found.map((it) => [it.title, it.author.name]));
});

app.get("/posts/page", async (req, res) => {
  const page = { order: ["id"], limit: 10, offset: 10 * (req.query.page - 1) };
  const { count, rows } = await Post.findAndCountAll({ ...page, include: [Author] });
  res.json({ posts: rows.map((it) => [it.title, it.author.name]), of: count });
});

app.get("/posts/export", async (req, res) => {
  const titles = [];
  for (let last = 0; ; ) {
    const page = await Post.findAll({ where: { id: { [Op.gt]: last } }, order: ["id"], limit: 8 });
    if (page.length === 0) break;
    titles.push(...page.map((it) => it.title));
    last = page.at(-1).id;
  }
  res.json(titles);
});

app.post("/visits/rows", async (req, res) => {
  for (const post_id of posts) await Visit.create({ post_id });
  res.json({});
});

app.post("/visits/bulk", async (req, res) => {
  await Visit.bulkCreate(posts.map((post_id) => ({ post_id })));
  res.json({});
});

app.get("/report", async (req, res) => {
  const rows = await db.query(
    `SELECT a.name, count(*) FROM authors a JOIN posts p ON p.author_id = a.id
       CROSS JOIN generate_series(1, :size) g
      WHERE (p.id + g) % 7 = 0 GROUP BY a.name ORDER BY 2 DESC`,
    { replacements: { size: 150000 }, type: QueryTypes.SELECT },
  );
  res.json(rows);
});

app.post("/orders/log-sync", async (req, res) => {
  await push(`order of ${await Author.count()}`);
  res.json({});
});

app.post("/orders/log-async", async (req, res) => {
  lines.push(`order of ${await Author.count()}`);
  res.json({});
});

app.get("/prices/each", async (req, res) => {
  const asked = posts.slice(0, 12).map(async (id) => (await fetch(`${STUB_URL}/prices/${id}`)).json());
  res.json(await Promise.all(asked));
});

app.get("/prices/batch", async (req, res) => {
  const answer = await fetch(`${STUB_URL}/prices?ids=1,2,3,4,5,6,7,8,9,10,11,12`);
  res.json(await answer.json());
});

app.listen(PORT, "127.0.0.1");
