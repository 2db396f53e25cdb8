// An app on net/http and GORM with its OpenTelemetry plugin.
package main

import (
	"context"
	"log"
	"net/http"
	"os"
	"strconv"

	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
	"gorm.io/plugin/opentelemetry/tracing"
)

type Author struct {
	ID   int
	Name string
}

type Post struct {
	ID       int
	AuthorID int
	Author   Author
	Title    string
}

type Visit struct {
	ID     int
	PostID int
}

var db *gorm.DB

func main() {
	provider := startTelemetry()
	var err error
	db, err = gorm.Open(postgres.Open(os.Getenv("DATABASE_URL")), &gorm.Config{Logger: logger.Discard})
	if err == nil {
		err = db.Use(tracing.NewPlugin(tracing.WithoutMetrics()))
	}
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
	serve(mux, provider)
}

func about(ctx context.Context, _ *http.Request) error {
	var count int64
	return db.WithContext(ctx).Model(&Author{}).Count(&count).Error
}

func postsLazy(ctx context.Context, _ *http.Request) error {
	var posts []Post
	if err := db.WithContext(ctx).Order("id DESC").Limit(20).Find(&posts).Error; err != nil {
		return err
	}
	for at := range posts {
		if err := db.WithContext(ctx).First(&posts[at].Author, posts[at].AuthorID).Error; err != nil {
			return err
		}
	}
	return nil
}

func postsEager(ctx context.Context, _ *http.Request) error {
	var posts []Post
	return db.WithContext(ctx).Preload("Author").Order("id DESC").Limit(20).Find(&posts).Error
}

func postsPage(ctx context.Context, r *http.Request) error {
	page, err := strconv.Atoi(r.URL.Query().Get("page"))
	if err != nil {
		return err
	}
	var count int64
	if err := db.WithContext(ctx).Model(&Post{}).Count(&count).Error; err != nil {
		return err
	}
	var posts []Post
	return db.WithContext(ctx).Joins("Author").Order("posts.id").Limit(10).Offset(10 * (page - 1)).Find(&posts).Error
}

func postsExport(ctx context.Context, _ *http.Request) error {
	var posts []Post
	return db.WithContext(ctx).FindInBatches(&posts, 8, func(*gorm.DB, int) error { return nil }).Error
}

func visitsRows(ctx context.Context, _ *http.Request) error {
	for id := 1; id <= 20; id++ {
		if err := db.WithContext(ctx).Create(&Visit{PostID: id}).Error; err != nil {
			return err
		}
	}
	return nil
}

func visitsBulk(ctx context.Context, _ *http.Request) error {
	var visits []Visit
	for id := 1; id <= 20; id++ {
		visits = append(visits, Visit{PostID: id})
	}
	return db.WithContext(ctx).Create(&visits).Error
}

func report(ctx context.Context, _ *http.Request) error {
	var rows []map[string]any
	return db.WithContext(ctx).Raw(`SELECT a.name, count(*) FROM authors a JOIN posts p ON p.author_id = a.id
		CROSS JOIN generate_series(1, ?::int) g WHERE (p.id + g) % 7 = 0 GROUP BY a.name ORDER BY 2 DESC`, 150000).Scan(&rows).Error
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
