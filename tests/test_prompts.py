"""What a model reads before it answers, by templates with a system turn and without."""

import pytest

from hf_proxy import InputError
from hf_proxy.records.scores import Setting
from hf_proxy.records.storage import fingerprint
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


# what is rendered belongs in the setting

ROWS = [{"prompt": "1+1?"}, {"prompt": "2+2?"}]
# Qwen3's: thinking is opened unless it is switched off, in the generation prompt
THINKS = WITH + (
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
)
OFF = {"enable_thinking": False}


def setting(tokenizer, rows=ROWS, **changes):
    context = read_context("chat", tokenizer, **changes)
    return context.setting_of(rows, [context.render(row) for row in rows])


@pytest.mark.parametrize(
    "template",
    [
        WITH,
        REFUSES,
        THINKS,
        "{% generation %}" + WITH + "{% endgeneration %}{% for m in messages %}{% break %}"
        "{% endfor %}{{ messages | tojson }}",
        # of a date that it may print and does not
        "{% if date_string %}{{ strftime_now('%d') }}{% endif %}" + WITH,
    ],
)
@pytest.mark.parametrize("system_prompt", [None, SYSTEM_PROMPT])
def test_what_template_and_turns_alone_say_is_named_by_the_template(
    with_template, template, system_prompt
):
    """As settings were before anything else belonged to them: old scores compare with new ones."""
    tokenizer = with_template(template)
    assert setting(tokenizer, system_prompt=system_prompt) == f"chat {fingerprint(template)}"


@pytest.mark.parametrize(
    "template",
    [
        "{{ strftime_now('%f') }}" + WITH,
        "{% set day = strftime_now('%f') %}" + WITH + "{{ day }}",
        "{{ range(99999) | random }}" + WITH,
    ],
)
def test_a_text_that_changes_from_call_to_call_is_a_setting_of_its_own(with_template, template):
    tokenizer = with_template(template)
    found = {setting(tokenizer) for _ in range(3)}
    assert len(found) > 1
    assert all(one.startswith(f"chat {fingerprint(template)} rendered ") for one in found)


def test_a_date_is_the_same_setting_on_the_same_day_in_any_order(with_template, monkeypatch):
    tokenizer = with_template("{{ strftime_now('%Y') }}" + WITH)
    assert setting(tokenizer) == setting(tokenizer, ROWS[::-1]) != setting(tokenizer, ROWS[:1])


def test_special_tokens_that_a_template_prints_are_rendered_too(with_template, monkeypatch):
    tokenizer = with_template("{{ eos_token }}" + WITH)
    before = setting(tokenizer)
    monkeypatch.setitem(tokenizer._special_tokens_map, "eos_token", "<|other|>")
    assert setting(tokenizer) != before


def test_arguments_that_render_otherwise_never_share_a_setting(with_template):
    tokenizer = with_template(THINKS)
    plain, off = setting(tokenizer), setting(tokenizer, chat_template_kwargs=OFF)
    assert off.startswith(f"{plain} rendered ")
    # what it does without being told
    assert setting(tokenizer, chat_template_kwargs={"enable_thinking": True}) == plain
    assert setting(tokenizer, chat_template_kwargs={}) == plain
    context = read_context("chat", tokenizer, chat_template_kwargs=OFF)
    assert context.render(ROWS[0]) == "<user>1+1?</><assistant><think></think>"
    prompts = read_prompts(["1+1?"], tokenizer, system_prompt=None, chat_template_kwargs=OFF)
    assert tokenizer.decode(prompts.input_ids[0]) == context.render(ROWS[0])


def test_one_template_rendered_in_two_ways_does_not_compare_by_bytes_either():
    def parts(context, tokenizer="k"):
        return Setting({"traces": "t", "context": context, "tokenizer": tokenizer})

    one, other = parts("chat a rendered b"), parts("chat a rendered c")
    for pair in ((one, other), (parts("chat a"), one)):
        differing, _ = pair[0].incomparable(pair[1], "bits_per_byte")
        assert len(differing) == 1 and differing[0].startswith("context:")
    for theirs in (parts("chat d"), parts("chat a rendered c", "l"), parts("chat d", "l")):
        assert one.incomparable(theirs, "bits_per_byte")[0] == []


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"thinking": True}, "kwargs thinking: the chat template does not read it, only enable_th"),
        ({"messages": []}, "kwargs messages: it is set here"),
        ({"add_generation_prompt": False}, "kwargs add_generation_prompt: it is set here"),
        ({"tokenize": True}, "kwargs tokenize: it is set here"),
        ({"enable_thinking": object()}, "is no value of JSON"),
        ({"enable_thinking": float("nan")}, "nan is no value of JSON"),
    ],
)
def test_arguments_that_no_template_reads_are_refused(with_template, kwargs, message):
    with pytest.raises(InputError, match=message):
        read_context("chat", with_template(THINKS), chat_template_kwargs=kwargs)


def test_arguments_under_a_context_in_text_are_refused(with_template):
    for context in ("{prompt}", lambda row: row["prompt"]):
        with pytest.raises(InputError, match="field chat_template_kwargs: there is no chat templ"):
            read_context(context, with_template(THINKS), chat_template_kwargs=OFF, name="own")


def test_a_template_that_refuses_its_arguments_is_said_in_one_line(with_template):
    template = "{% if effort == 'much' %}{{ raise_exception('no such effort') }}{% endif %}" + WITH
    with pytest.raises(InputError, match=r"refuses it \(no such effort\); mend"):
        setting(with_template(template), chat_template_kwargs={"effort": "much"})
