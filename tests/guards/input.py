"""Files and bodies that mean harm: what stands between them and the gateway, its tenants, its machine. Names: `words.py`."""

from __future__ import annotations

from tests.guards import Guard

BOMBS = "tests/backends/extraction/test_bombs.py"
FILES = "tests/gateway/test_files_as_input.py"
BODIES = "tests/gateway/test_hostile_bodies.py"
NAMES = "tests/gateway/test_hostile_names.py"
REFUSED = "tests/gateway/test_documents_refused.py"
UPSTREAM = "tests/gateway/test_upstream_body.py"

CHILD, EXTRACTOR = "backends/extraction/child.py", "backends/extraction/extractor.py"
BOUNDED = (f"{BOMBS}::test_the_child_has_bounded_everything_and_knows_nothing",)

EXTRACTION = (
    Guard("a file's reader has bounded memory", CHILD, "(resource.RLIMIT_AS, memory_bytes)", "(resource.RLIMIT_CORE, 0)", BOUNDED),
    Guard("… and processor time", CHILD, "(resource.RLIMIT_CPU, cpu_s)", "(resource.RLIMIT_CORE, 0)", BOUNDED),
    Guard("… writes no file", CHILD, "(resource.RLIMIT_FSIZE, 0)", "(resource.RLIMIT_CORE, 0)", BOUNDED),
    Guard("… starts no process", CHILD, "resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))", "pass", BOUNDED),
    Guard(
        "… opens no file and no socket",
        CHILD,
        "resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))",
        "pass",
        (f"{BOMBS}::test_a_locked_process_opens_no_file_and_no_socket",),
    ),
    Guard("… has no environment", EXTRACTOR, "env={},", "env=None,", BOUNDED),
    Guard("… is a group of its own, ended as one", EXTRACTOR, "start_new_session=True,", "start_new_session=False,", BOUNDED),
    Guard(
        "… ends by the clock on the wall",
        EXTRACTOR,
        "asyncio.timeout(limits.time_s)",
        "asyncio.timeout(None)",
        (f"{BOMBS}::test_one_that_waits_for_ever_is_ended_too",),
    ),
    Guard(
        "… is ended with its request",
        EXTRACTOR,
        "os.killpg(child.pid, signal.SIGKILL)",
        "pass",
        (f"{BOMBS}::test_one_that_waits_for_ever_is_ended_too",),
    ),
    Guard(
        "… may write so much and no more",
        EXTRACTOR,
        "if len(found) > limit:",
        "if len(found) < 0:",
        (f"{BOMBS}::test_more_text_than_is_allowed_is_not_even_taken_in",),
    ),
    Guard(
        "a PDF has so many pages at most",
        CHILD,
        "if len(document) > max_pages:",
        "if len(document) < 0:",
        (f"{BOMBS}::test_a_bomb_is_refused_by_the_limit_that_it_meets",),
    ),
    Guard(
        "a reader that breaks is a refusal",
        EXTRACTOR,
        "if status != 0:",
        "if status > 1:",
        (f"{BOMBS}::test_a_child_that_breaks_is_a_refusal",),
    ),
    Guard(
        "so many files wait and no more",
        EXTRACTOR,
        "if self._waiting >= MAX_WAITING:",
        "if self._waiting < 0:",
        (f"{BOMBS}::test_so_many_files_are_read_at_once_and_no_more_wait_than_may",),
    ),
    Guard(
        "so many files are read at once and no more",
        EXTRACTOR,
        "asyncio.Semaphore(settings.at_once)",
        "asyncio.Semaphore(1000)",
        (f"{BOMBS}::test_so_many_files_are_read_at_once_and_no_more_wait_than_may",),
    ),
    Guard(
        "no file is read for a key that may not add documents",
        "gateway/api/documents_api.py",
        'request.auth.need("share" if shared else "write")  # nobody',
        "pass  # nobody",
        (f"{FILES}::test_a_key_that_may_not_add_documents_has_no_file_read",),
    ),
    Guard(
        "a compressed body is not unpacked",
        "gateway/api/asgi.py",
        'if name == b"content-encoding" and',
        'if name == b"" and',
        (f"{FILES}::test_a_compressed_body_is_415_and_never_unpacked",),
    ),
    Guard(
        "archives are no text",
        "backends/extract.py",
        "next((what for magic, what in _MAGIC if data.startswith(magic)), None)",
        'next((what for magic, what in _MAGIC if data == b"-"), None)',
        (f"{REFUSED}::test_what_is_not_text_is_415_and_named", "tests/backends/test_extract.py"),
    ),
    Guard(
        "a NUL in a file is no text",
        "backends/extract.py",
        'b"\\0" in data and not',
        'b"\\0" == data and not',
        (f"{REFUSED}::test_what_is_not_text_is_415_and_named",),
    ),
    Guard(
        "a NUL in JSON is no text",
        "gateway/shelf/reading.py",
        'if "\\0" in text:',
        'if "\\0" == text:',
        (f"{REFUSED}::test_a_nul_in_json_is_415_as_in_a_file",),
    ),
)

BODY = (
    Guard(
        "deep nesting in a question is a 400",
        "gateway/api/chat_api.py",
        "except RecursionError as error:",
        "except ZeroDivisionError as error:",
        (f"{BODIES}::test_deep_nesting_is_400",),
    ),
    Guard(
        "… in any other body",
        "gateway/api/documents_api.py",
        "except RecursionError as error:",
        "except ZeroDivisionError as error:",
        (f"{BODIES}::test_deep_nesting_is_400",),
    ),
    Guard(
        "… in a catalog file",
        "gateway/strict_yaml.py",
        "except RecursionError as error:",
        "except ZeroDivisionError as error:",
        (f"{NAMES}::test_a_catalog_file_with_one_changes_nothing",),
    ),
    Guard(
        "a seed is a number that the engine takes",
        "gateway/api/chat_api.py",
        "Meta(ge=-(2**63), le=2**63 - 1)",
        "Meta()",
        (f"{BODIES}::test_numbers_strings_and_names_that_no_field_holds_are_400",),
    ),
    Guard(
        "a stop string has a length",
        "gateway/api/chat_api.py",
        "Meta(max_length=1000)",
        "Meta()",
        (f"{BODIES}::test_numbers_strings_and_names_that_no_field_holds_are_400",),
    ),
    Guard(
        "what is unknown is not repeated at length",
        "router/catalog.py",
        "{document_id[:120]!r}",
        "{document_id!r}",
        (f"{BODIES}::test_what_is_unknown_is_not_repeated_at_length",),
    ),
    Guard(
        "unknown fields are refused",
        "gateway/api/chat_api.py",
        "class ChatRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):",
        "class ChatRequest(msgspec.Struct, frozen=True):",
        (f"{UPSTREAM}::test_what_steers_the_engine_is_refused_by_name",),
    ),
    Guard(
        "`n` is refused",
        "gateway/api/chat_api.py",
        "if request.n not in (None, 1):",
        "if request.n == 0.5:",
        (f"{UPSTREAM}::test_what_steers_the_engine_is_refused_by_name",),
    ),
    Guard(
        "the body's salt is the version's",
        "gateway/asking/asker.py",
        "if question.bypass else version.salt",
        "if question.bypass else Salt(version.digest)",
        (
            f"{UPSTREAM}::test_with_every_field_of_a_request_the_body_is_the_golden_one",
            f"{UPSTREAM}::test_a_thousand_requests_reach_the_worker_with_the_salts_of_their_own_documents_alone",
        ),
    ),
    Guard(
        "the body holds typed fields alone",
        "router/upstream.py",
        "    logprobs: int | None = None\n",
        "    logprobs: int | None = None\n    n: int = 2\n    cache_salt: str | None = None\n",
        ("tests/router/test_upstream.py::test_sampling_has_no_field_that_steers_the_cache_or_the_stream",),
    ),
)

GUARDS: tuple[Guard, ...] = (*EXTRACTION, *BODY)
