"""How the sites look: the HTML of a page, whole or broken, and robots.txt."""

from __future__ import annotations

from greenworker.testsite.plan import Page

SUBJECTS = (
    "Harbours", "Lighthouses", "Ropes", "Knots", "Currents", "Tides", "Sails", "Charts", "Fog",
    "Buoys", "Anchors", "Ferries", "Islands", "Gulls", "Piers", "Moorings",
)  # fmt: skip
PROSE = "".join(
    f"<p>{' '.join(sentences)}</p>\n"
    for sentences in (
        ("The ebb runs for an hour longer than the table says.", "Nobody has asked it why."),
        ("A rope that is coiled wet will be stiff by Sunday.", "Coil it twice, then hang it up."),
        ("The old light is kept for its shape.", "Ships have steered by the new one since 1962."),
        ("Of the seven piers two are left.", "The others can be seen at the lowest tides."),
        ("In fog the bell is rung by hand.", "It takes two people, and a good clock."),
        ("Every chart is wrong somewhere.", "The good ones say where."),
    )
    for _ in range(2)
)


def path(n: int) -> str:
    """The address of page `n` within its host."""
    return f"/page/{n}" if n else "/"


def html(roots: list[str], host: int, n: int, page: Page) -> bytes:
    """A page as it is sent; `roots` are the addresses of all hosts' first pages."""
    links = [path(m) for m in (*page.children, *page.across)]
    links += [roots[m] for m in page.roots]
    links += [roots[h][:-1] + path(m) for h, m in page.away]
    traps = (("bomb", page.bomb), ("loop", page.loop), ("private", page.private))
    links += [f"/{trap}/{n}" for trap, is_there in traps if is_there]
    listed = "".join(f'<li><a href="{link}">{link}</a></li>\n' for link in links)
    subject = SUBJECTS[page.look % len(SUBJECTS)]
    title = f"{subject} of host {host}, part {n}"
    text = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>\n'
        f"<body>\n<h1>{title}</h1>\n{PROSE}<ul>\n{listed}</ul>\n</body></html>\n"
    ).encode()
    return _broken(text, page.broken) if page.broken else text


def robots(delay: float) -> bytes:
    """robots.txt: nobody may visit /private/, and between two requests `delay` seconds are to pass."""
    pause = f"Crawl-delay: {delay:g}\n" if delay else ""
    return f"User-agent: *\nDisallow: /private/\n{pause}".encode()


def _broken(text: bytes, way: int) -> bytes:
    """The same page with markup that no validator would pass. Its links are whole: a crawl that
    survives it still finds every page."""
    if way == 1:  # nothing is closed, and it ends in the middle of a tag
        for tag in (b"</li>", b"</p>", b"</h1>", b"</title>", b"</ul>\n</body></html>\n"):
            text = text.replace(tag, b"")
        return text + b"<table><tr><td class='"
    if way == 2:  # bytes that are no UTF-8, whatever it says, and NULs
        return text.replace(b"<h1>", b"<h1>\xff\xfe caf\xe9 \x80\x00 ")
    if way == 3:  # deeper than most parsers recurse
        return text.replace(b"<ul>", b"<div><b><i>" * 2000 + b"<ul>")
    # quotes that do not match, attributes twice, a comment that never ends behind the last link
    return text.replace(b"<p>", b'<p class=x class="y\' id=\'"">').replace(b"</ul>", b"</ul><!-- ")
