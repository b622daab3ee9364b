pytest_plugins = ["greenworker.testing.pytest"]
