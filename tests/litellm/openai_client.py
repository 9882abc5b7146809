"""The document's OpenAI SDK example, run in LiteLLM's environment: key and address as arguments."""

import sys

from openai import OpenAI

client = OpenAI(api_key=sys.argv[1], base_url=sys.argv[2], max_retries=0)

response = client.chat.completions.create(
    model="claude-3-opus", messages=[{"role": "user", "content": "Hello!"}]
)
print(response.choices[0].message.content)

stream = client.chat.completions.create(
    model="claude-3-opus", messages=[{"role": "user", "content": "Hello!"}], stream=True
)
pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
print(sum(bool(piece) for piece in pieces), "pieces:", "".join(pieces))
