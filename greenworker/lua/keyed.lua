-- Stands behind lines.lua, before scripts that handle keys in any case.

need_keys()
