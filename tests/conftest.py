"""All tests share one real stack, started on demand; see `stack.testing`."""

pytest_plugins = ["stack.testing"]
