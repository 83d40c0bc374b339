"""What a model reads before it answers, by templates with a system turn and without."""

import pytest

from hf_proxy.tokens.prompts import SYSTEM_PROMPT, read_context, read_prompts

TURN = "{{ '<' + m['role'] + '>' + m['content'] + '</>' }}"
WITH = "{% for m in messages %}" + TURN + "{% endfor %}<assistant>"
# Gemma's refuses the turn; others leave it out, as their authors mean it
REFUSES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + WITH
)
DROPS = "{% for m in messages if m['role'] != 'system' %}" + TURN + "{% endfor %}<assistant>"


@pytest.fixture
def with_template(tokenizer, monkeypatch):
    def use(template):
        monkeypatch.setattr(tokenizer, "chat_template", template)
        return tokenizer

    return use


def test_where_a_system_turn_is_refused_its_text_stands_before_the_question(with_template):
    context = read_context("chat", with_template(REFUSES), system_prompt="Reason.")
    assert context.render({"prompt": "1+1?"}) == "<user>Reason.\n\n1+1?</><assistant>"
    assert context.system_prompt == "Reason."


def test_a_template_may_leave_the_system_turn_out(with_template):
    context = read_context("chat", with_template(DROPS), system_prompt="Reason.")
    assert context.render({"prompt": "1+1?"}) == "<user>1+1?</><assistant>"


def test_a_system_turn_is_used_where_there_is_one(with_template):
    context = read_context("chat", with_template(WITH), system_prompt=SYSTEM_PROMPT)
    told = f"<system>{SYSTEM_PROMPT}</><user>1+1?</><assistant>"
    assert context.render({"prompt": "1+1?"}) == told


@pytest.mark.parametrize("template", [WITH, REFUSES, DROPS])
@pytest.mark.parametrize("nothing", [None, ""])
def test_an_empty_system_prompt_is_none(with_template, template, nothing):
    tokenizer = with_template(template)
    prompts = read_prompts(["1+1?"], tokenizer, system_prompt=nothing)
    assert tokenizer.decode(prompts.input_ids[0]) == "<user>1+1?</><assistant>"
    assert prompts.system_prompt is None
