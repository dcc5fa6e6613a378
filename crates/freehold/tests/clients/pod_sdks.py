"""The vendors' own libraries, which know nothing of the platform but the placeholder and the address."""

import sys

if sys.argv[1] == "anthropic":
    import anthropic

    client = anthropic.Anthropic(api_key="freehold-placeholder", base_url="https://model.freehold.test")
    ask = dict(model="scripted-1", max_tokens=100, messages=[{"role": "user", "content": "hello"}])
    assert client.messages.create(**ask).content[0].text == "Hello from the model."
    with client.messages.stream(**ask) as stream:
        assert "".join(stream.text_stream) == "Hello from the model."
else:
    import openai

    client = openai.OpenAI(api_key="freehold-placeholder", base_url="https://model.freehold.test/v1")
    ask = dict(model="scripted-1", messages=[{"role": "user", "content": "hello"}])
    assert client.chat.completions.create(**ask).choices[0].message.content == "Hello from the model."
    stream = client.chat.completions.create(**ask, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == "Hello from the model.", text
    with client.responses.stream(model="scripted-1", input="hello") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert text == "Hello from the model.", text
print("done")
