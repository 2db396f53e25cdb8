// An Express project's own tests, as node:test runs them; the project is one of the recorded apps.

const assert = require("node:assert");
const { once } = require("node:events");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const { after, before, test } = require("node:test");

process.env.PORT = "0";
const { pool, server } = require("../recorded/express-pg/blog.js");

before(async () => {
  await pool.query("DROP TABLE IF EXISTS visits, posts, authors");
  await pool.query(readFileSync(join(__dirname, "../recorded/schema.sql"), "utf8"));
  if (!server.listening) await once(server, "listening");
});

after(async () => {
  server.close();
  await pool.end();
});

for (const path of ["/about", "/posts/lazy", "/posts/eager", "/posts/page?page=2"]) {
  test(`${path} answers`, async () => {
    const answer = await fetch(`http://127.0.0.1:${server.address().port}${path}`);
    assert.strictEqual(answer.status, 200);
    await answer.arrayBuffer();
  });
}
