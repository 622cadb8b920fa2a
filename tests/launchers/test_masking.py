"""What must not be shown."""

import pytest

from llm_router.backends.base import Address, LaunchSpec
from llm_router.launchers.lines import Lines
from llm_router.launchers.masking import Mask, secrets_of


def test_secrets_become_stars() -> None:
    assert Mask(["sk-123", "sk-12345"])("key sk-12345, then sk-123.") == "key ***, then ***."


def test_what_is_too_short_stands_in_innocent_places_too() -> None:
    assert Mask(["k", ""])("a kind word") == "a kind word"


def test_what_looks_like_an_expression_is_taken_by_its_letters() -> None:
    assert Mask(["a.c+"])("abcc a.c+") == "abcc ***"


@pytest.mark.parametrize("name", ["HF_TOKEN", "LLAMA_API_KEY", "api_key", "PASSWORD", "AWS_SECRET"])
def test_the_values_of_keys_are_secrets(name: str) -> None:
    spec = LaunchSpec(argv=(), address=Address(host="h", port=1), env={name: "hidden", "MAX_TOKENS": "4096"})
    assert secrets_of(spec) == ("hidden",)


def test_a_servers_own_key_is_a_secret() -> None:
    spec = LaunchSpec(argv=(), address=Address(host="h", port=1), credential="one-key", secrets=("another",))
    assert set(secrets_of(spec)) == {"one-key", "another"}


def test_lines_that_are_there_already_are_masked_too() -> None:
    lines = Lines()
    lines.feed("early sk-123\n")
    lines.hide(["sk-123"])
    assert lines.feed("late sk-") == []
    assert lines.feed("123\n") == ["late ***"]
    assert list(lines.ring) == ["early ***", "late ***"]
