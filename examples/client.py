"""Ask a running server (`softprompt serve`) with OpenAI's client: `python examples/client.py [TASK] [TEXT]`."""

import os
import sys

from openai import OpenAI

task = sys.argv[1] if len(sys.argv) > 1 else "builtin/tiny"
text = sys.argv[2] if len(sys.argv) > 2 else "The capital of France is"

# Any key will do while the server has none (`softprompt keys create NAME` makes the first).
client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)
for model in client.models.list():
    print("served:", model.id)

answer = client.chat.completions.create(model=task, messages=[{"role": "user", "content": text}])
print("answer:", answer.choices[0].message.content, f"({answer.model}, {answer.system_fingerprint})")

for chunk in client.completions.create(model=task, prompt=text, max_tokens=24, stream=True):
    print(chunk.choices[0].text, end="", flush=True)
print()
