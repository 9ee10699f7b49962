"""What stores say, in terms of what to do about it."""

from __future__ import annotations

import pytest
from deltalake.exceptions import DeltaError

from config.errors import ConfigurationError, Unavailable
from sinks.delta.storage import store_errors


@pytest.mark.parametrize(
    ("code", "kind"), [("RequestTimeTooSkewed", Unavailable), ("AccessDenied", ConfigurationError)]
)
def test_a_clock_that_the_store_refuses_is_waited_for_and_refused_keys_are_not(
    code: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind), store_errors("s3://lake/orders"):
        raise DeltaError(f"Server returned non-2xx status code 403 Forbidden <Error><Code>{code}</Code></Error>")
