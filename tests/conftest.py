"""All tests share one real stack, started on demand; see `stack.testing`."""

from hypothesis import settings

pytest_plugins = ["stack.testing"]

# A property is about what comes out; how long one example takes is the machine's business.
settings.register_profile("lakeward", deadline=None)
settings.load_profile("lakeward")
