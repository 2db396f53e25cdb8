// An app on net/http and pgx with its pool, instrumented by otelpgx.
package main

import (
	"context"
	"log"
	"net/http"
	"os"
	"strconv"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

type post struct {
	ID, Author int
	Title      string
}

var db *pgxpool.Pool

func main() {
	provider := startTelemetry()
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	config.ConnConfig.Tracer = otelpgx.NewTracer()
	db, err = pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		log.Fatal(err)
	}
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
	return db.QueryRow(ctx, "SELECT count(*) FROM authors").Scan(&count)
}

func posts(ctx context.Context, query string, arguments ...any) ([]post, error) {
	rows, err := db.Query(ctx, query, arguments...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[post])
}

func latest(ctx context.Context) ([]post, error) {
	return posts(ctx, "SELECT id, author_id, title FROM posts ORDER BY id DESC LIMIT 20")
}

func postsLazy(ctx context.Context, _ *http.Request) error {
	posts, err := latest(ctx)
	if err != nil {
		return err
	}
	for _, it := range posts {
		var name string
		if err := db.QueryRow(ctx, "SELECT name FROM authors WHERE id = $1", it.Author).Scan(&name); err != nil {
			return err
		}
	}
	return nil
}

func postsEager(ctx context.Context, _ *http.Request) error {
	found, err := latest(ctx)
	if err != nil {
		return err
	}
	var ids []int
	for _, it := range found {
		ids = append(ids, it.Author)
	}
	_, err = posts(ctx, "SELECT id, id, name FROM authors WHERE id = ANY($1)", ids)
	return err
}

func postsPage(ctx context.Context, r *http.Request) error {
	page, err := strconv.Atoi(r.URL.Query().Get("page"))
	if err != nil {
		return err
	}
	var count int
	if err := db.QueryRow(ctx, "SELECT count(*) FROM posts").Scan(&count); err != nil {
		return err
	}
	_, err = posts(ctx, "SELECT p.id, a.id, a.name FROM posts p JOIN authors a ON a.id = p.author_id ORDER BY p.id LIMIT 10 OFFSET $1", 10*(page-1))
	return err
}

func postsExport(ctx context.Context, _ *http.Request) error {
	for last := 0; ; {
		page, err := posts(ctx, "SELECT id, author_id, title FROM posts WHERE id > $1 ORDER BY id LIMIT 8", last)
		if err != nil || len(page) == 0 {
			return err
		}
		last = page[len(page)-1].ID
	}
}

func visitsRows(ctx context.Context, _ *http.Request) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		for id := 1; id <= 20; id++ {
			if _, err := tx.Exec(ctx, "INSERT INTO visits (post_id) VALUES ($1)", id); err != nil {
				return err
			}
		}
		return nil
	})
}

// visitsBulk sends twenty statements at once: one round trip.
func visitsBulk(ctx context.Context, _ *http.Request) error {
	var batch pgx.Batch
	for id := 1; id <= 20; id++ {
		batch.Queue("INSERT INTO visits (post_id) VALUES ($1)", id)
	}
	return db.SendBatch(ctx, &batch).Close()
}

func report(ctx context.Context, _ *http.Request) error {
	_, err := posts(ctx, `SELECT 1, count(*), a.name FROM authors a JOIN posts p ON p.author_id = a.id
		CROSS JOIN generate_series(1, $1::int) g WHERE (p.id + g) % 7 = 0 GROUP BY a.name ORDER BY 2 DESC`, 150000)
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
	config := db.Config().ConnConfig
	for _, query := range []string{"SELECT name FROM authors WHERE id = 1", "SELECT title FROM posts WHERE id = 1"} {
		connection, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			return err
		}
		var text string
		err = connection.QueryRow(ctx, query).Scan(&text)
		connection.Close(ctx)
		if err != nil {
			return err
		}
	}
	return nil
}
