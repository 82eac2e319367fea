"""Every failure a user can meet is one line: where, what, what next."""

import pickle

import pytest

from harness import errors
from harness.errors import BadInput, HarnessError

TYPES = [
    found for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, HarnessError)
]  # fmt: skip


@pytest.mark.parametrize(
    "arguments, line",
    [
        ({}, "is empty"),
        ({"where": "disk.img"}, "disk.img: is empty"),
        ({"next_step": "build it"}, "is empty (build it)"),
        ({"where": "disk.img", "next_step": "build it"}, "disk.img: is empty (build it)"),
    ],
)
def test_the_message_is_where_what_and_next_step(arguments, line):
    assert str(BadInput("is empty", **arguments)) == line


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_every_type_is_documented_classed_and_exits_with_2(kind):
    assert kind.__doc__
    assert kind.verdict_class in {"infra", "boot", "image", "test"}
    assert kind.exit_code == 2


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_an_error_survives_the_way_between_processes(kind):
    """Workers hand their failures to the controller."""
    sent = kind("is empty", where="disk.img", next_step="build it")
    received = pickle.loads(pickle.dumps(sent))
    assert (type(received), str(received)) == (kind, str(sent))
