"""Middleware for other people's frameworks: a module each, imported by whoever uses it."""
