"""What is measured: a file for each workload. run.py names them all."""
