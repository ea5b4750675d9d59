"""Chat templates render as in Hugging Face's dialect, and can do nothing but text."""

import pytest

from cadenza.server.chat import ChatTemplate
from cadenza.server.errors import ArtifactError, InvalidRequestError, Reason

USER = [{"role": "user", "content": "a < b\n"}]


def test_blocks_leave_no_blank_lines_and_text_is_not_escaped() -> None:
    lines = [
        "{% for m in messages %}",
        "  {% if true %}",
        "[{{ m.role }}] {{ m.content }}",
        "  {% endif %}",
        "{% endfor %}",
    ]
    source = "\n".join(lines)
    assert ChatTemplate(source, {}).render(USER) == "[user] a < b\n\n"


def test_template_sees_generation_prompt_special_tokens_and_plain_json() -> None:
    source = "{{ bos_token }}{{ messages[0].content | tojson }}{% if add_generation_prompt %}A:{% endif %}"
    assert ChatTemplate(source, {"bos_token": "<s>"}).render(USER) == '<s>"a < b\\n"A:'


def test_templates_own_objection_is_passed_on() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    with pytest.raises(InvalidRequestError, match="roles must alternate") as raised:
        template.render(USER)
    assert raised.value.reason is Reason.CHAT_TEMPLATE_FAILED


@pytest.mark.parametrize(
    "source",
    ["{{ messages.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ nosuch.attribute }}", "{{ 1 / 0 }}"],
)
def test_what_the_sandbox_forbids_or_the_template_gets_wrong_is_a_typed_error(source: str) -> None:
    with pytest.raises(InvalidRequestError):
        ChatTemplate(source, {}).render(USER)


def test_template_that_does_not_compile_is_refused_at_load() -> None:
    with pytest.raises(ArtifactError, match="line 1"):
        ChatTemplate("{% if %}", {})
