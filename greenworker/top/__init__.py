"""`greenworker top`: what is where, how fast it goes, and what limits it, seen live."""
