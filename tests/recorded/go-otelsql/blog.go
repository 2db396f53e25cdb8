// An app on net/http and database/sql, instrumented by otelsql.
package main

import (
	"context"
	"database/sql"
	"log"
	"net/http"
	"os"
	"strconv"

	"github.com/XSAM/otelsql"
	"github.com/lib/pq"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
)

var db *sql.DB

type post struct {
	id, author int
	title      string
}

func open() *sql.DB {
	db, err := otelsql.Open("postgres", os.Getenv("DATABASE_URL")+"?sslmode=disable",
		otelsql.WithAttributes(semconv.DBSystemNamePostgreSQL))
	if err != nil {
		log.Fatal(err)
	}
	return db
}

func main() {
	provider := startTelemetry()
	db = open()
	db.SetMaxIdleConns(4)
	mux := http.NewServeMux()
	handle(mux, "GET /about", about)
	handle(mux, "GET /posts/lazy", postsLazy)
	handle(mux, "GET /posts/eager", postsEager)
	handle(mux, "GET /posts/page", postsPage)
	handle(mux, "GET /posts/export", postsExport)
	handle(mux, "POST /visits/rows", visitsRows)
	handle(mux, "POST /visits/bulk", visitsBulk)
	handle(mux, "GET /report", report)
	handle(mux, "POST /orders/log-sync", ordersLogSync)
	handle(mux, "POST /orders/log-async", ordersLogAsync)
	handle(mux, "GET /prices/each", pricesEach)
	handle(mux, "GET /prices/batch", pricesBatch)
	handle(mux, "GET /connect", connect)
	serve(mux, provider)
}

func about(ctx context.Context, _ *http.Request) error {
	var count int
	return db.QueryRowContext(ctx, "SELECT count(*) FROM authors").Scan(&count)
}

func latest(ctx context.Context) ([]post, error) {
	rows, err := db.QueryContext(ctx, "SELECT id, author_id, title FROM posts ORDER BY id DESC LIMIT 20")
	if err != nil {
		return nil, err
	}
	return read(rows)
}

func read(rows *sql.Rows) ([]post, error) {
	defer rows.Close()
	var posts []post
	for rows.Next() {
		var it post
		if err := rows.Scan(&it.id, &it.author, &it.title); err != nil {
			return nil, err
		}
		posts = append(posts, it)
	}
	return posts, rows.Err()
}

func postsLazy(ctx context.Context, _ *http.Request) error {
	posts, err := latest(ctx)
	if err != nil {
		return err
	}
	for _, it := range posts {
		var name string
		if err := db.QueryRowContext(ctx, "SELECT name FROM authors WHERE id = $1", it.author).Scan(&name); err != nil {
			return err
		}
	}
	return nil
}

func postsEager(ctx context.Context, _ *http.Request) error {
	posts, err := latest(ctx)
	if err != nil {
		return err
	}
	var ids []int64
	for _, it := range posts {
		ids = append(ids, int64(it.author))
	}
	rows, err := db.QueryContext(ctx, "SELECT id, id, name FROM authors WHERE id = ANY($1)", pq.Array(ids))
	if err != nil {
		return err
	}
	_, err = read(rows)
	return err
}

func postsPage(ctx context.Context, r *http.Request) error {
	page, err := strconv.Atoi(r.URL.Query().Get("page"))
	if err != nil {
		return err
	}
	var count int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM posts").Scan(&count); err != nil {
		return err
	}
	rows, err := db.QueryContext(ctx, "SELECT p.id, a.id, a.name FROM posts p JOIN authors a ON a.id = p.author_id ORDER BY p.id LIMIT 10 OFFSET $1", 10*(page-1))
	if err != nil {
		return err
	}
	_, err = read(rows)
	return err
}

func postsExport(ctx context.Context, _ *http.Request) error {
	for last := 0; ; {
		rows, err := db.QueryContext(ctx, "SELECT id, author_id, title FROM posts WHERE id > $1 ORDER BY id LIMIT 8", last)
		if err != nil {
			return err
		}
		page, err := read(rows)
		if err != nil || len(page) == 0 {
			return err
		}
		last = page[len(page)-1].id
	}
}

func visitsRows(ctx context.Context, _ *http.Request) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for id := 1; id <= 20; id++ {
		if _, err := tx.ExecContext(ctx, "INSERT INTO visits (post_id) VALUES ($1)", id); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func visitsBulk(ctx context.Context, _ *http.Request) error {
	_, err := db.ExecContext(ctx, "INSERT INTO visits (post_id) SELECT generate_series(1, $1::int)", 20)
	return err
}

func report(ctx context.Context, _ *http.Request) error {
	rows, err := db.QueryContext(ctx, `SELECT 1, count(*), a.name FROM authors a JOIN posts p ON p.author_id = a.id
		CROSS JOIN generate_series(1, $1::int) g WHERE (p.id + g) % 7 = 0 GROUP BY a.name ORDER BY 2 DESC`, 150000)
	if err != nil {
		return err
	}
	_, err = read(rows)
	return err
}

func ordersLogSync(ctx context.Context, r *http.Request) error {
	if err := about(ctx, r); err != nil {
		return err
	}
	return push(ctx, "an order")
}

func ordersLogAsync(ctx context.Context, r *http.Request) error {
	go push(context.WithoutCancel(ctx), "an order")
	return about(ctx, r)
}

func connect(ctx context.Context, _ *http.Request) error {
	for _, query := range []string{"SELECT name FROM authors WHERE id = 1", "SELECT title FROM posts WHERE id = 1"} {
		db := open()
		var text string
		err := db.QueryRowContext(ctx, query).Scan(&text)
		db.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
