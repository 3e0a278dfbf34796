"""A document that gives orders: no other document's answer has a token, a salt or a word of it."""

from __future__ import annotations

import re
from typing import Any

from tests.fakes.gateway import Gateway
from tests.fakes.tokenizers import simple
from tests.router.test_prompts import HOSTILE

LEASE = "# Lease\n\nThe deposit is 2,400 euros. The rent is 1,200 euros."


async def asked(gateway: Gateway, document: str, **more: Any) -> dict[str, Any]:
    """What the worker gets of a question."""
    await gateway.ask("What is the deposit?", document=document, **more)
    return gateway.workers[0].bodies[-1]


async def test_what_is_asked_of_others_is_the_same_to_the_byte(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    await asked(gateway, "lease")
    before = gateway.workers[0].sent[-1]
    for number, text in enumerate(HOSTILE):
        await gateway.add(f"# Orders {number}\n\n{text}", id=f"orders-{number}", title="Lease", aliases=[f"Lease {number}"])
        # Whatever it has the model say is said of itself.
        gateway.workers[0].says[(await asked(gateway, f"orders-{number}"))["cache_salt"]] = ["PWNED"]
    answer = await gateway.ask("What is the deposit?", document="lease")
    assert gateway.workers[0].sent[-1] == before
    assert answer["choices"][0]["message"]["content"] == "It is so."
    for number in range(len(HOSTILE)):
        body = await asked(gateway, f"orders-{number}")
        lease = gateway.workers[0].bodies[0]
        assert body["cache_salt"] != lease["cache_salt"]
        assert body["prompt"][:16] == lease["prompt"][:16], "both begin with what tells the model that a document is material"


async def test_the_tags_around_a_document_stand_around_all_of_it(gateway: Gateway) -> None:
    """One opening and one closing tag in what the worker gets, whatever the document holds."""
    tokenizer = simple()
    for number, text in enumerate(("Words.", *HOSTILE)):
        await gateway.add(f"# Orders {number}\n\n{text}", id=f"orders-{number}")
        body = await asked(gateway, f"orders-{number}")
        sent = tokenizer._tokenizer.decode(body["prompt"], skip_special_tokens=False)
        assert len(re.findall(r"<\s*document\s*>", sent, re.IGNORECASE)) == 1
        assert len(re.findall(r"<\s*/\s*document\s*>", sent, re.IGNORECASE)) == 1
