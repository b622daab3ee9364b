"""Workers that are measured side by side: a file for each, and registry.py that names them all."""
