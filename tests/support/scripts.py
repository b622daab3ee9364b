"""Every script that there is, by its name."""

from __future__ import annotations

from pathlib import Path

from greenworker.scripts import _SHARED

LUA = Path(__file__).resolve().parents[2] / "greenworker" / "lua"
PARTS = {"prelude", *(part for parts in _SHARED.values() for part in parts)}
NAMES = sorted({path.stem for path in LUA.glob("*.lua")} - PARTS)
