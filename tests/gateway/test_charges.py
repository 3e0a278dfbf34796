"""What is charged for readings adds up, whatever becomes of them and in whichever order."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from gateway.shelf.charges import ReadingCharges
from gateway.tenants.limiter import Hold
from router.documents import Descriptor, Document, DocumentId, Key, Owner, Salt, Version, VersionId, VersionState

KEY: Key = (Owner("acme"), DocumentId("lease"))
PREFIX = 10


class Account:
    """Stands for the counters: what is charged and not given back."""

    def __init__(self) -> None:
        self.spent = 0

    async def reserve_reading(self, tokens: int) -> Hold | None:
        self.spent += tokens
        return _Hold(self, tokens)


class _Hold(Hold):
    def __init__(self, account: Account, tokens: int) -> None:
        self.account, self.tokens = account, tokens

    def settle(self, tokens: int) -> None:
        self.account.spent += tokens - self.tokens
        self.tokens = tokens


class Readings(RuleBasedStateMachine):
    """One document; versions come, are read or not, and go. `due` is what each should have cost by now."""

    def __init__(self) -> None:
        super().__init__()
        self.charges, self.account = ReadingCharges(), Account()
        self.document: Document | None = None
        self.number = 0
        self.due: dict[VersionId, int] = {}
        self.under_way: dict[VersionId, Any] = {}
        self.read: dict[VersionId, int] = {}
        self.unwanted: set[VersionId] = set()

    @property
    def incoming(self) -> Version | None:
        version = self.document.incoming if self.document is not None else None
        return version if version is not None and version.state is not VersionState.FAILED else None

    @rule(is_paid=st.booleans())
    def add(self, is_paid: bool) -> None:
        self.number += 1
        version = Version(
            id=VersionId(str(self.number)), digest="", fingerprint="", salt=Salt(""), document_tokens=PREFIX, prefix_tokens=PREFIX
        )

        async def store() -> None:
            async with self.charges.taken(self.account if is_paid else None, KEY, version):
                pass

        asyncio.run(store())
        if is_paid:
            self.due[version.id] = PREFIX
        self._superseded()
        before = self.document or Document(owner=KEY[0], id=KEY[1], descriptor=Descriptor(""))
        self._show(replace(before, incoming=version))

    @precondition(lambda self: self.incoming is not None and self.incoming.id not in self.under_way)
    @rule()
    def begin(self) -> None:
        assert self.incoming is not None
        self.under_way[self.incoming.id] = reading = self.charges.reading(KEY, self.incoming.id)
        reading.__enter__()

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), tokens=st.integers(0, PREFIX))
    def progress(self, data: st.DataObject, tokens: int) -> None:
        version_id = data.draw(st.sampled_from(sorted(self.under_way)))
        self.charges.read(KEY, version_id, tokens)
        self.read[version_id] = max(self.read.get(version_id, 0), tokens)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        version_id = data.draw(st.sampled_from(sorted(self.under_way)))
        self.under_way.pop(version_id).__exit__(None, None, None)
        if version_id in self.unwanted and version_id in self.due:
            self.due[version_id] = self.read.get(version_id, 0)

    @precondition(lambda self: self.incoming is not None)
    @rule()
    def ready(self) -> None:
        assert self.document is not None
        assert self.incoming is not None
        self._show(replace(self.document, current=replace(self.incoming, state=VersionState.READY), incoming=None))

    @precondition(lambda self: self.incoming is not None)
    @rule()
    def fail(self) -> None:
        assert self.document is not None
        assert self.incoming is not None
        if self.incoming.id in self.due:
            self.due[self.incoming.id] = 0
        self._show(replace(self.document, incoming=replace(self.incoming, state=VersionState.FAILED)))

    @precondition(lambda self: self.document is not None)
    @rule()
    def remove(self) -> None:
        self._superseded()
        self._show(None)

    @invariant()
    def adds_up(self) -> None:
        assert self.account.spent == sum(self.due.values())

    def teardown(self) -> None:
        """Once all is over nothing is remembered."""
        self._superseded()
        self._show(None)
        for reading in self.under_way.values():
            reading.__exit__(None, None, None)
        assert repr(self.charges) == "<ReadingCharges of 0 documents>"

    def _superseded(self) -> None:
        if (version := self.incoming) is not None:
            self.unwanted.add(version.id)
            if version.id in self.due and version.id not in self.under_way:
                self.due[version.id] = self.read.get(version.id, 0)

    def _show(self, document: Document | None) -> None:
        self.document = document
        self.charges.seen(KEY, document)


class TestReadings(Readings.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
