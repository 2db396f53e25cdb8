-- The slowest requests of one endpoint stand in few blocks, and which these are was told by nothing: an
-- endpoint that others call is quicker than they are, so that every block had to be read.

-- Beside `endpoints`: the longest request of each. Null: not known, longest_ns bounds it.
alter table culprit.trace_blocks add column longest_by_endpoint bigint[];
