"""The rows of the table of compatibility, one module for each dialect. Each row asks for one feature and looks at
what the client gets.

Counterpart: `compatibility`, which tells from the engine's journal how it came about.
"""

# The order of the page.
from compatibility_openai import OPENAI  # noqa: I001
from compatibility_anthropic import ANTHROPIC
from compatibility_ollama import OLLAMA
from compatibility_llamacpp import LLAMACPP

DIALECTS = (OPENAI, ANTHROPIC, OLLAMA, LLAMACPP)
