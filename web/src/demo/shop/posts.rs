//! `GET /posts`: a query for the posts, and one for each author. **N+1 queries.**

use axum::Json;
use axum::extract::{Query, State};
use opentelemetry::trace::SpanBuilder;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::FromRow;

use super::{Shop, ShopError};
use crate::demo::instrument::{Statement, in_span};

const POSTS: Statement = Statement {
    summary: "SELECT posts",
    function: concat!(module_path!(), "::posts"),
    text: "select id, author_id, title from posts where topic = $1 order by posted_at desc",
};

/// What makes each of these take a few milliseconds is honest work on the author's 600 comments,
/// found by an index. One query for all authors, grouped, would do the same work in one round trip.
const AUTHOR: Statement = Statement {
    summary: "SELECT authors",
    function: concat!(module_path!(), "::load_author"),
    text: "select a.id, a.name, count(c.id) as comments, \
           avg(cardinality(regexp_split_to_array(c.body, '\\s+')))::float8 as words_per_comment \
           from authors a join comments c on c.author_id = a.id where a.id = $1 group by a.id",
};

#[derive(Deserialize)]
pub(super) struct PostsQuery {
    topic: i32,
}

#[derive(FromRow, Serialize)]
struct Post {
    id: i32,
    author_id: i32,
    title: String,
}

#[derive(FromRow, Serialize)]
struct Author {
    id: i32,
    name: String,
    comments: i64,
    words_per_comment: f64,
}

/// The culprit is the loop: 20 to 35 posts, so 20 to 35 queries, one after the other.
pub(super) async fn posts(
    State(shop): State<Shop>,
    Query(query): Query<PostsQuery>,
) -> Result<Json<Value>, ShopError> {
    let posts: Vec<Post> = shop.db.fetch_all(&POSTS, query.topic).await?;
    let load_authors = async {
        let mut authors = Vec::with_capacity(posts.len());
        for post in &posts {
            authors.push(load_author(&shop, post.author_id).await?);
        }
        Ok::<_, ShopError>(authors)
    };
    let span = SpanBuilder::from_name("load authors");
    let authors = in_span(&shop.tracer, span, load_authors).await?;
    Ok(Json(json!({ "posts": posts, "authors": authors })))
}

async fn load_author(shop: &Shop, id: i32) -> Result<Author, ShopError> {
    let author = shop.db.fetch_optional(&AUTHOR, id).await?;
    author.ok_or(ShopError::NotFound)
}
