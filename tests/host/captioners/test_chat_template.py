"""Chat templates: those of real models read as transformers renders them, bad ones end at once."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from pack.nodes.host.captioners import chat_template
from pack.nodes.host.captioners.chat_template import MOST, rendered
from pack.nodes.host.captioners.model import chat

CONTENT = [{"type": "image"}, {"type": "text", "text": " Describe it: {{ 1 }} <b>ü</b>. "}]
VALUES: dict[str, Any] = {
    "messages": [{"role": "user", "content": CONTENT}],
    "tools": None,
    "documents": None,
    "add_generation_prompt": True,
    "bos_token": "<s>",
    "eos_token": "</s>",
}

# In the manner of released models, which between them use all of this.
LIKE_REAL = {
    "counters": """{% set image_count = namespace(value=0) %}{% for message in messages %}
{% if loop.first and message['role'] != 'system' %}<|im_start|>system
You are helpful.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}
{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content %}
{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}Picture {{
image_count.value }}: {% endif %}<|vision_start|><|image_pad|>{% elif 'text' in content %}{{
content['text'] }}{% endif %}{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}""",
    "prefixes": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set first = "" -%}{%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Roles must alternate") }}
    {%- endif -%}
    {{ '<start_of_turn>' + message['role'] + '\n' + (first if loop.first else "") }}
    {%- for item in message['content'] -%}
        {%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}
        {%- else -%}{{ item['text'] | trim }}{%- endif -%}
    {%- endfor -%}{{ '<end_of_turn>\n' }}
{%- endfor -%}""",
    "macros": """{%- macro content(parts, count=true) -%}
{%- if parts is string -%}{{ parts }}{%- else -%}{%- for part in parts -%}
{%- if 'text' in part -%}{{- part.text.strip().replace('it', 'this').split('</think>')[-1] -}}
{%- else -%}<img>{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}
{%- set ns = namespace(last=messages|length - 1, multi=true) -%}
{%- for message in messages[::-1] -%}{%- set index = (messages|length - 1) - loop.index0 -%}
{%- if ns.multi and message.role == "user" -%}{%- set ns.multi = false -%}
{%- set ns.last = index -%}{%- endif -%}{%- endfor -%}
{%- for message in messages -%}
{{- '<|' ~ message.role ~ '|>' ~ ns.last ~ content(message.content, true).lstrip('\n') -}}
{%- endfor -%}""",
    "filters": """{%- set images = messages[0].content | selectattr('type', 'equalto', 'image')
| list -%}{{ images|length }} {{ messages | map(attribute='role') | join(', ') | upper }}
{{ messages[0] | tojson }} {{ {'b': [1, 2], 'a': (3,)} | tojson(indent=2) }}
{{ 'USER: %s and %d' % ('x', 2) }} {{ ('a', 'b') | join('-') }} {{ 'ab' * 2 }} {{ 7 // 2 ** 2 }}
{{ messages[0].get('name', 'nobody') }} {{ missing is defined }} {{ missing | default('none') }}
{{ "x\ny" | indent(2) }} {{ messages[0].content[1].text | replace('it', 'this') | trim }}
{% for key, value in {'k': 'v'}.items() %}{{ key }}={{ value }}{% endfor %}{{ [3, 1] | sort }}
{% for n in range(5) %}{% if n == 3 %}{% break %}{% endif %}{{ n }}{% endfor %}
{% set text %}<|{{ eos_token }}|>{% endset %}{{ text | e }} {{ '-'.join(['a', 'b']) }}""",
    "generation": """{% for message in messages %}{% generation %}
{{ message.role }}
{% endgeneration %}{% endfor %}""",
}


@pytest.mark.parametrize("name", LIKE_REAL)
def test_a_template_of_a_real_model_reads_as_transformers_renders_it(name: str):
    others = {key: value for key, value in VALUES.items() if key not in ("messages", "documents")}
    (theirs,), _ = render_jinja_template(
        [VALUES["messages"]], chat_template=LIKE_REAL[name], **others
    )
    assert rendered(LIKE_REAL[name], VALUES) == theirs and theirs.strip()


DOUBLED = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = X %}{% endfor %}"
BAD = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
    "{% endfor %}",
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}"
    "{% endif %}{% endmacro %}{{ m(90) }}",
    "a recursive loop": "{% for a in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    "a long text": "{{ 'a' * 10**10 }}",
    "a long text from the right": "{{ 10**10 * 'a' }}",
    "a long list": "{{ ([0] * 10**10)|length }}",
    "a long tuple in a list": "{{ [(0,) * 10**10]|length }}",
    "a large number": "{{ 10 ** (10 ** 10) }}",
    "squared numbers": "{% set ns = namespace(x=3) %}{% for i in range(99) %}"
    "{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x }}",
    "sums": DOUBLED.replace("X", "ns.x + ns.x"),
    "joins": DOUBLED.replace("X", "ns.x ~ ns.x"),
    "joins of a list": DOUBLED.replace("X", "[ns.x, ns.x]|join"),
    "a method join": DOUBLED.replace("X", "ns.x.join(['', ns.x, ''])"),
    "replaced letters": DOUBLED.replace("X", "ns.x.replace('', ns.x)"),
    "a filter replace": DOUBLED.replace("X", "ns.x|replace('', ns.x)"),
    "nested lists": DOUBLED.replace("X", "[ns.x, ns.x]") + "{{ ns.x }}",
    "nested tuples": DOUBLED.replace("X", "(ns.x, ns.x)") + "{{ ns.x == ns.x|list }}",
    "nested objects": DOUBLED.replace("X", "{'a': ns.x, 'b': ns.x}") + "{{ ns.x|tojson }}",
    "nested calls": DOUBLED.replace("X", "dict(a=ns.x, b=ns.x)") + "{{ ns.x|string }}",
    "nested variables": DOUBLED.replace("X", "namespace(a=ns.x, b=ns.x)") + "{{ ns.x }}",
    "lists that are filled later": "".join(f"{{% set n{i} = namespace(x=0) %}}" for i in range(50))
    + "".join(f"{{% set n{i}.x = [n{i + 1}, n{i + 1}] %}}" for i in range(49))
    + "{{ n0 }}",
    "a block": DOUBLED.replace("X", "ns.x")
    + "{% set x %}"
    + "{{ messages|string * 99 }}" * 999
    + "{% endset %}",
    "a width": "{{ '%9999999999d' % 1 }}",
    "a width of its own": "{{ '%*d' % (10**9, 1) }}",
    "repeated conversions": "{{ ('%s' * 9999) % ('a' * 9999) }}",
    "format": "{{ '{:>9999999999}'.format(1) }}",
    "format_map": "{{ '{x:>9999999999}'.format_map({'x': 1}) }}",
    "a padded method": "{{ 'a'.ljust(10**10) }}",
    "zeros": "{{ '1'.zfill(10**10) }}",
    "tabs": "{{ '\t'.expandtabs(10**9) }}",
    "center": "{{ 'a'|center(10**10) }}",
    "indent": "{{ 'a\nb'|indent(10**10) }}",
    "an indent by text": "{{ ('a\n' * 99999)|indent('b' * 99999) }}",
    "json": "{{ [[1]]|tojson(indent=10**9) }}",
    "separated json": "{{ ([1] * 9999)|tojson(separators=('a' * 99999, ':')) }}",
    "bytes of a number": "{{ (5).to_bytes(10**10, 'big') }}",
    "rounding": "{{ 1|round(10**10, 'floor') }}",
    "a date": "{{ strftime_now('%999999999d') }}",
    "lorem": "{{ lipsum(10**7) }}",
    "batches": "{{ [1]|batch(10**10, 0)|list }}",
    "attributes": "{{ messages.__class__.__mro__ }}",
    "attributes by a filter": "{{ messages|attr('__class__') }}",
    "attributes by format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "globals of a macro": "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "the environment": "{{ self._TemplateReference__context.environment }}",
    "a change of what is given": "{{ messages.append(1) }}",
    "an underscored variable": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "another file": "{% include '/etc/passwd' %}",
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "a chain of sums": "{{ 1" + " + 1" * 20000 + " }}",
    "ifs": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "a long template": "a" * 2**18,
    "no template": "{% for %}",
    "its own refusal": "{{ raise_exception('Only text.') }}",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_template_ends_with_a_sentence(name: str, monkeypatch):
    monkeypatch.setattr(chat_template, "MOST_SECONDS", 1.0)
    before, began = psutil.Process().memory_info().rss, time.monotonic()
    with pytest.raises(ValueError) as told:
        rendered(BAD[name], VALUES)
    assert str(told.value).strip() and time.monotonic() - began < 5
    assert psutil.Process().memory_info().rss - before < 300 * 2**20


@pytest.mark.parametrize("path", ["messages['__class__']", "messages.__class__", "'x'.format"])
def test_what_the_sandbox_hides_is_nothing(path: str):
    assert rendered(f"[{{{{ {path} }}}}]", VALUES) == "[]"
    found = rendered("{{ [messages]|map(attribute='__class__')|list }}", VALUES)
    assert found == "[Undefined]"


def test_nothing_is_left_of_the_deadline():
    before = sys.gettrace()
    with pytest.raises(ValueError, match="more than"):
        rendered("{{ 'a' * 10**10 }}", VALUES)
    assert sys.gettrace() is before
    assert rendered("{{ 'a' * 9 }}", VALUES) == "a" * 9
    assert len(rendered("{{ 'a' * 100000 }}", VALUES)) < MOST


def test_the_sentence_names_the_model():
    processor = SimpleNamespace(chat_template={"default": BAD["a long text"]}, tokenizer=None)
    with pytest.raises(ValueError, match="The chat template of made-up cannot be used, because it"):
        chat(processor, "Describe it.", "made-up")


def test_a_bad_template_is_refused_before_the_weights_are_read(tmp_path: Path, monkeypatch):
    from harness.models.captioners import save_captioner
    from pack.nodes.host.captioners.model import ComputePrecision, FolderCaptioner

    monkeypatch.setattr(chat_template, "MOST_SECONDS", 1.0)
    folder = tmp_path / "endless"
    save_captioner("qwen2_5_vl", folder)
    (folder / "chat_template.jinja").write_text(BAD["nested loops"])
    with pytest.raises(ValueError, match="^The chat template of endless .* more than 1 seconds"):
        FolderCaptioner(folder, ComputePrecision.FP32)
