-- What all the small apps read and write: a blog with a counter of visits.
create table authors (id int primary key, name text not null);
create table posts (
    id int primary key,
    author_id int not null references authors,
    title text not null
);
create table visits (
    id int generated always as identity primary key,
    post_id int not null references posts
);
insert into authors select n, 'author ' || n from generate_series(1, 20) n;
-- Twenty posts in a row are by twenty authors, so that nobody's cache of rows hides a loop.
insert into posts select n, 1 + n % 20, 'post ' || n from generate_series(1, 60) n;
analyze;
