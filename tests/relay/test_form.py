"""Forms with files: where the model's name is, and that everything else arrives as it was sent."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType
from llm_router.relay.form import Form, boundary_of
from llm_router.relay.request import Parameters

B = b"----x7"


def part(name: str, value: bytes, *, filename: str | None = None) -> bytes:
    more = "" if filename is None else f'; filename="{filename}"\r\nContent-Type: audio/wav'
    return b'--%b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (
        B,
        name.encode(),
        more.encode(),
        value,
    )


END = b"--%b--\r\n" % B
MODEL = part("model", b"whisper")
SOUND = part("file", bytes(range(256)) * 8, filename="a.wav")
LANGUAGE = part("language", b"de")


def form(body: bytes, *, limit: int = 10**8, step: int = 4096) -> Form:
    found = Form(B, limit)
    for at in range(0, len(body), step):
        found.add(body[at : at + step])
    found.close()
    return found


def sent(found: Form, name: str) -> bytes:
    request = bytes(found.request(b"HEAD\r\n\r\n", name))
    head, _, body = request.partition(b"\r\n\r\n")
    assert head == b"HEAD"
    assert len(body) == found.size_with(name)
    return body


@pytest.mark.parametrize(
    "parts",
    [(MODEL, SOUND, LANGUAGE), (SOUND, MODEL, LANGUAGE), (SOUND, LANGUAGE, MODEL), (MODEL,)],
    ids=["first", "between", "last", "alone"],
)
@pytest.mark.parametrize("name", ["whisper", "whisper-large-v3-of-the-server", "w"])
def test_the_model_is_found_wherever_it_is_and_sent_under_the_servers_name(parts: tuple[bytes, ...], name: str) -> None:
    found = form(b"".join(parts) + END)
    assert found.model == "whisper"
    others = b"".join(one for one in parts if one is not MODEL)
    for again in (name, name, "x"):
        assert sent(found, again) == part("model", again.encode()) + others + END


@pytest.mark.parametrize("size", [1, 4096, 3_000_000])
def test_a_large_file_arrives_byte_for_byte(size: int) -> None:
    sound = part("file", random.Random(1).randbytes(size), filename="a.wav")
    assert sent(form(sound + MODEL + END, step=65536), "whisper") == MODEL + sound + END


def test_a_form_may_arrive_in_any_pieces() -> None:
    body = SOUND + MODEL + END
    for step in (1, 7, len(body)):
        assert sent(form(body, step=step), "whisper") == MODEL + SOUND + END


def test_other_spellings_of_the_field_are_known_and_other_fields_are_not_it() -> None:
    for head in (b"content-disposition: form-data; name=model", b'Content-Disposition:form-data;name="model"'):
        assert form(b"--%b\r\n%b\r\n\r\nwhisper\r\n" % (B, head) + END).model == "whisper"
    decoy = part("prompt", b'Content-Disposition: form-data; name="model"\r\n\r\nother')
    assert form(decoy + part("my-model", b"y") + part("modelx", b"z") + MODEL + END).model == "whisper"


@pytest.mark.parametrize(
    "body",
    [
        *(b"", END, SOUND + END, b"nothing of the kind", MODEL[:-3], b"--" + B, b"--" + B + b"\r\n" * 9000),
        *(part("model", name) + END for name in (b"", b"\xff", b"a\r\nb")),
    ],
)
def test_what_is_no_form_with_a_model_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        form(body)
    assert caught.value.message.startswith("cannot")


PLAN = Parameters(
    defaults={"language": "en", "temperature": 0.2, "model": "no"},
    overrides={"stream": True, "include[]": ["logprobs", "x"], "extra": {"a": 1}, "none": None},
    removals=("prompt", "model"),
)
SET = b"".join(
    part(name, value)
    for name, value in (
        *(("temperature", b"0.2"), ("stream", b"true"), ("include[]", b"logprobs"), ("include[]", b"x")),
        ("extra", b'{"a":1}'),
    )
)
PROMPT, STREAM = part("prompt", b"x" * 300), part("stream", b"false")


@pytest.mark.parametrize(
    "parts",
    [
        (MODEL, LANGUAGE, PROMPT, STREAM, STREAM, SOUND),
        (SOUND, STREAM, LANGUAGE, MODEL, STREAM, PROMPT),
        (STREAM, LANGUAGE, SOUND, PROMPT, MODEL, STREAM),
    ],
    ids=["fields-first", "file-first", "file-between"],
)
def test_the_parameters_of_a_model_are_about_fields_too(parts: tuple[bytes, ...]) -> None:
    found = form(b"".join(parts) + END)
    found.amend(PLAN)
    rest = b"".join(one for one in parts if one in (SOUND, LANGUAGE))
    for name in ("whisper", "x"):
        assert sent(found, name) == part("model", name.encode()) + SET + rest + END


def test_a_default_is_what_the_client_may_say_otherwise() -> None:
    for said, expected in ((LANGUAGE, LANGUAGE), (b"", part("language", b"en"))):
        found = form(MODEL + said + SOUND + END)
        found.amend(Parameters(defaults={"language": "en"}, overrides={}, removals=()))
        assert sorted(sent(found, "m").split(B)) == sorted((part("model", b"m") + SOUND + expected + END).split(B))


def test_a_removal_comes_before_a_default() -> None:
    found = form(LANGUAGE + MODEL + SOUND + END)
    found.amend(Parameters(defaults={"language": "en"}, overrides={}, removals=("language",)))
    assert sent(found, "m") == part("model", b"m") + part("language", b"en") + SOUND + END


@pytest.mark.parametrize("rest", [b"", b"--" + B, b"rubbish", b"--%b\r\nno head" % B])
def test_what_is_no_field_is_left_as_it_is(rest: bytes) -> None:
    found = form(MODEL + PROMPT + LANGUAGE[:-2] + b"\r\n--%b\r\n" % B + rest)
    found.amend(Parameters(defaults={}, overrides={}, removals=("prompt",)))
    assert sent(found, "m") == part("model", b"m") + LANGUAGE + b"--%b\r\n" % B + rest


def test_a_form_has_a_limit() -> None:
    with pytest.raises(RequestTooLarge):
        form(SOUND + MODEL + END, limit=1000)


def test_the_boundary_is_what_the_type_says() -> None:
    assert boundary_of(b"multipart/form-data; boundary=abc") == b"abc"
    assert boundary_of(b'Multipart/Form-Data; charset=utf-8; Boundary="a b"') == b"a b"
    for wrong in (b"", b"application/json", b"multipart/form-data", b"text/plain; boundary=x"):
        with pytest.raises(UnsupportedMediaType):
            boundary_of(wrong)


PARTS = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "model"]), st.binary(max_size=30)), max_size=8)
SETTINGS = st.dictionaries(st.sampled_from(["a", "b", "d", "model"]), st.sampled_from(["x", "yy"]), max_size=3)


@given(
    parts=PARTS, at=st.integers(0, 8), defaults=SETTINGS, overrides=SETTINGS, removals=st.sets(st.sampled_from("abd"))
)
def test_whatever_the_fields_and_the_parameters(
    parts: list[tuple[str, bytes]], at: int, defaults: dict[str, str], overrides: dict[str, str], removals: set[str]
) -> None:
    others = [(name, value) for name, value in parts if name != "model"]
    body = [*others[:at], ("model", b"m"), *others[at:], *[one for one in parts if one[0] == "model"]]
    found = form(b"".join(part(name, value) for name, value in body) + END, step=50)
    found.amend(Parameters(defaults=defaults, overrides=overrides, removals=tuple(removals)))
    kept = [(name, value) for name, value in others if name not in removals | overrides.keys()]
    missing = {name: value for name, value in defaults.items() if name not in dict(kept)}
    added = [(name, value.encode()) for name, value in (missing | overrides).items() if name != "model"]
    assert sent(found, "n") == b"".join(part(*one) for one in [("model", b"n"), *added, *kept]) + END
