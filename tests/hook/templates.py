"""Templates that do what others do not."""

from __future__ import annotations

REPEATS = (
    "{{ 'Asked: ' + messages[-1]['content'] + '\n' }}"
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}assistant:"
)
TRIMS = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] | trim + '\n' }}{% endfor %}assistant:"
PARTS = (
    "{% for m in messages %}{{ m['role'] + ': ' }}"
    "{% if m['content'] is string %}{{ 'a text: ' + m['content'] }}"
    "{% else %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endif %}{{ '\n' }}"
    "{% endfor %}assistant:"
)
STRIPS = (
    "{% for m in messages %}{% set content = m['content'] %}"
    "{% if m['role'] == 'assistant' %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<' + m['role'] + '>' + content + '\n' }}{% endfor %}<assistant>"
)
LAST_QUERY = (  # as that of Qwen3: what is no tool's answer decides about what stands before it
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m['role'] == 'user' and not m['content'].startswith('<tool_response>') %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{{ '<' + m['role'] + '>' }}"
    "{% if m['role'] == 'assistant' and loop.index0 < ns.last %}{{ m['content'].split('</think>')[-1] }}"
    "{% else %}{{ m['content'] }}{% endif %}{{ '\n' }}{% endfor %}<assistant>"
)
SKIPS = (
    "{% for m in messages %}{% if m['content'] %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endif %}"
    "{% endfor %}assistant:"
)
NO_OTHER = (
    "{% for m in messages %}{% if m['content'] | length < 3 %}{{ raise_exception('too short') }}{% endif %}"
    "{{ m['content'] + '\n' }}{% endfor %}"
)
