"""A file a family of faults; each function is a scenario, and a row of the table in docs/reliability.md.

@scenario("SIGKILL of the server", appendonly=True, lease=2.0)
def server_killed(arena: Arena, rng: random.Random) -> Report:
    arena.worker()                                   # the real command
    ids = arena.send_many("nap", [[0.05]] * 500)
    with arena.fault("server killed"):               # into the journal
        arena.server.kill()
    arena.server.restart()
    arena.drain()                                    # also fails on a stall
    return Report("…", arena.verify(causes=[]))      # what may have run twice, by cause
"""
