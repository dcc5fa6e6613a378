//! Model wires: Anthropic Messages, OpenAI Responses and Chat Completions.
