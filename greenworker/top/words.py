"""Words: numbers and times as a narrow column can hold them."""

from __future__ import annotations


def number(count: int) -> str:
    """1,234; from a hundred thousand on 123k, 12M."""
    if count < 100_000:
        return f"{count:,}"
    if count < 10_000_000:
        return f"{count // 1000:,}k"
    return f"{count // 1_000_000:,}M"


def rate(per: float | None) -> str:
    """So many a second, or a minute; a dash for what is unknown."""
    if per is None:
        return "-"
    if per == 0 or per >= 9.95:
        return number(round(per))
    return f"{per:.1f}" if per >= 0.05 else f"{per:.2f}"


def age(seconds: float | None) -> str:
    """3 ms, 1.5 s, 42 s, 7 min, 3 h, 5 d; a dash for what is unknown."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86400:.0f} d"


def memory(size: int | None) -> str:
    """112M, 3.4G; a dash for what is unknown."""
    if size is None:
        return "-"
    if size < 1000 << 20:
        return f"{size >> 20}M"
    return f"{size / (1 << 30):.1f}G"
