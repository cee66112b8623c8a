"""A worker that needs nothing: its answers follow from the request, and the environment makes it misbehave."""

import json
import os
import sys
import time

for line in sys.stdin:
    request = json.loads(line)
    index = request["index"]
    with open(os.environ["TOY_ASKED"], "a") as file:  # what was asked of whom
        file.write(json.dumps({"pid": os.getpid(), **request}) + "\n")
    sys.stdout.write("a library's chatter\n{}\n")
    if os.environ.get("TOY_DIE") == str(index):
        sys.exit("the toy is out of memory")
    time.sleep(float(os.environ.get("TOY_SLEEP", 0)))
    if os.environ.get("TOY_FAIL") == str(index):
        answer = {"error": "ToyError: this prompt does not suit me"}
    elif "passage" in request:
        words = request["passage"].split()
        answer = {"text": " ".join(words[: round(len(words) * request["scale"] / 2)]), "stats": {"draft_tokens": 7}}
    else:
        answer = {"stats": {"kept_tokens": float(os.environ.get("TOY_KEPT", 2)), "cache_bytes": 64}}
        if request["settings"]["press"] == "TokensPress":
            answer["tokens"] = [*request["ids"], *request["stop_token_ids"][:1], 5, 5]
        else:
            answer["text"] = request["prompt"].split()[-1]
    sys.stdout.write(json.dumps({"index": index, **answer}) + "\n")
    sys.stdout.flush()
