"""A document that is longer than the model's context, on the real engine: read in volumes, each asked from its own KV."""

from __future__ import annotations

import asyncio

from tests.engine.conftest import CONTRACT, RealGateway

LEASE = CONTRACT.with_name("apartment-lease.md")


async def test_a_document_longer_than_the_context_is_asked_from_the_volume_that_a_question_is_about(engine: RealGateway) -> None:
    contract, lease = [await asyncio.to_thread(path.read_text, "utf-8") for path in (CONTRACT, LEASE)]
    papers = "# Papers of the building\n\n" + "\n\n".join(
        text.replace("\n#", "\n##").replace("# ", "## ", 1) for text in (contract, lease)
    )
    added = await engine.read("papers", papers)
    assert added["prefix_tokens"] > engine.config.model.context_tokens
    try:
        _, document = await engine.get("/v1/documents/papers")
        sizes = [volume["prefix_tokens"] for volume in document["volumes"]]
        assert len(sizes) == 2
        assert "Lease" in document["volumes"][1]["title"]
        for question, number in (
            ("What is the response time for priority 1?", 1),
            ("How much is the security deposit for the apartment?", 2),
        ):
            answer = await engine.ask(question, document="papers")
            assert (answer["document-id"], answer["document-volume"]) == ("papers", str(number))
            assert answer["cached_tokens"] >= sizes[number - 1]
            assert answer["cache-tier"] != "none"
            cold = await engine.ask(question, document="papers", cold=True)
            assert (cold["text"], cold["cached_tokens"]) == (answer["text"], 0)
    finally:
        await engine.remove("papers")
