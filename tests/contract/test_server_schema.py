"""The OpenAPI description, fuzzed: no request makes the server fail or answer outside it."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_schema_conformance,
    status_code_conformance,
)

KEY = "a-key-of-the-server"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 25
OPERATIONS = 14


@pytest.fixture(scope="module")
def keyed(start_server):
    return start_server("--profile", "tiny", "--policy", "local-only", HYBRID_INFER_SERVER_KEY=KEY)


@pytest.fixture(scope="module")
def operations(keyed):
    headers = {"Authorization": f"Bearer {KEY}"}
    schema = schemathesis.openapi.from_url(keyed.url + "/openapi.json", headers=headers)
    found = [operation.ok() for operation in schema.get_all_operations()]
    assert len(found) == OPERATIONS
    return found


@pytest.mark.parametrize("number", range(OPERATIONS))
def test_every_operation_keeps_to_its_description(operations, number):
    operation = operations[number]

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(), num_tokens=st.integers(1, 4))
    def run(case, num_tokens):
        if isinstance(case.body, dict) and "messages" in case.body:
            case.body["max_tokens"] = num_tokens  # else an example may generate for seconds
        case.call_and_validate(
            headers={"Authorization": f"Bearer {KEY}"}, checks=CHECKS, timeout=60
        )

    run()


@pytest.mark.parametrize("number", range(OPERATIONS))
def test_every_operation_refuses_a_bad_key(operations, number):
    @settings(max_examples=1, deadline=None, database=None, derandomize=True)
    @given(case=operations[number].as_strategy())
    def run(case):
        case.call_and_validate(headers={"Authorization": f"Bearer {KEY}"}, checks=[ignored_auth])

    run()
