"""The project's own configuration, catalog and questions: that they load, and that the questions' answers are there."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from backends.extraction.extractor import Extractor
from backends.settings import Extraction
from gateway import config, strict_yaml
from gateway.cli.demo import Question, Questions
from gateway.shelf import catalog_file
from router.documents import SHARED

CONFIGS = Path(__file__).parents[2] / "configs"
QUESTIONS = strict_yaml.read(CONFIGS / "demo" / "questions.yaml", Questions)
DOCUMENTS = {
    declared.id: declared for declared in asyncio.run(catalog_file.load(CONFIGS / "demo" / "catalog.yaml", Extractor(Extraction())))
}


def answers(question: Question) -> list[str]:
    return [question.answer] if isinstance(question.answer, str) else list(question.answer)


def section(text: str, number: str) -> str:
    """What stands under the heading of this number, up to the next heading."""
    found = re.search(rf"^#+ {re.escape(number)}\.? .*?(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[0] if found else ""


def test_the_demos_configuration_loads_and_names_its_catalog() -> None:
    loaded = config.load(CONFIGS / "demo.yaml")
    assert loaded.engine.local is not None
    assert loaded.catalog is not None
    assert loaded.catalog.samefile(CONFIGS / "demo" / "catalog.yaml")
    assert loaded.allow_cache_bypass


def test_the_demos_catalog_declares_documents_for_all_that_describe_themselves() -> None:
    assert len(DOCUMENTS) >= 5
    for declared in DOCUMENTS.values():
        assert declared.owner == SHARED
        assert declared.descriptor.title
        assert declared.descriptor.summary
        assert declared.descriptor.tags
        assert declared.descriptor.questions


def test_every_document_of_the_demo_is_declared_once() -> None:
    files = {path.stem for path in (CONFIGS / "demo" / "documents").glob("*.md")}
    assert set(DOCUMENTS) == files


def test_each_document_has_two_questions_at_least_as_the_demo_asks_one_by_name_and_one_without() -> None:
    asked = [question.document for question in QUESTIONS.questions]
    assert {document: asked.count(document) >= 2 for document in DOCUMENTS} == dict.fromkeys(DOCUMENTS, True)
    assert set(asked) == set(DOCUMENTS)


@pytest.mark.parametrize("question", QUESTIONS.questions, ids=lambda question: question.question[:60])
def test_an_answer_stands_literally_under_the_heading_that_is_named(question: Question) -> None:
    text = DOCUMENTS[question.document].text
    found = answers(question)
    assert all(found)
    assert len(found) == len(question.places)
    for answer, place in zip(found, question.places, strict=True):
        assert answer in section(text, place)


def test_a_question_is_not_one_of_its_documents_sample_questions() -> None:
    """Routing would find those by heart."""
    for question in QUESTIONS.questions:
        samples = DOCUMENTS[question.document].descriptor.questions
        assert question.question not in samples
        assert question.paraphrase not in samples
