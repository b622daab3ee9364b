"""A crawl to watch: a web site of some thousand slow pages, and a worker that reads it."""
