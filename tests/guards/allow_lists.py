"""What a key that is narrowed to some documents sees: nothing of the others, in no way to look."""

from __future__ import annotations

from tests.guards import Guard

CATALOG, VIEWS, CHAT = "router/catalog.py", "gateway/shelf/views.py", "gateway/api/chat.py"
DOCUMENTS_API, JOBS_API, ROUTING_API = "gateway/api/documents_api.py", "gateway/api/jobs_api.py", "gateway/api/routing_api.py"

OF_LISTS, OF_VIEWS = "tests/gateway/tenants/test_allow_lists.py", "tests/gateway/test_views.py"

_ALL = "type(viewer)(viewer.tenant)"
_ALL_OF_PRINCIPAL = "type(principal.viewer)(principal.tenant)"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "a list is narrowed to the key's documents",
        CATALOG,
        "if d.part is None and viewer.permits(d))",
        "if d.part is None)",
        (
            f"{OF_LISTS}::test_a_list_holds_what_the_key_is_narrowed_to",
            f"{OF_LISTS}::test_the_jobs_of_what_is_kept_from_the_key_are_not_there",
        ),
    ),
    Guard(
        "what is kept from the key is not found by its id",
        CATALOG,
        " or not viewer.permits(found)",
        "",
        (f"{OF_LISTS}::test_a_document_that_is_kept_from_the_key_is_answered_as_one_that_is_not_there",),
    ),
    Guard(
        "nor among several documents",
        CHAT,
        "find(principal.viewer, name) for name in request.named]",
        f"find({_ALL_OF_PRINCIPAL}, name) for name in request.named]",
        (f"{OF_LISTS}::test_a_document_that_is_kept_from_the_key_is_answered_as_one_that_is_not_there",),
    ),
    Guard(
        "a question is matched with the key's documents alone",
        VIEWS,
        "for d in catalog.visible_to(viewer)]\n        visible",
        f"for d in catalog.visible_to({_ALL})]\n        visible",
        (
            f"{OF_LISTS}::test_a_question_finds_only_what_the_key_may_see",
            f"{OF_LISTS}::test_a_dry_run_ranks_only_what_the_key_may_see",
            f"{OF_LISTS}::test_what_is_kept_from_the_key_changes_no_score",
        ),
    ),
    Guard(
        "a question is classified as the key's",
        CHAT,
        "self._shelf.catalog, principal.viewer, request.questions, leading",
        f"self._shelf.catalog, {_ALL_OF_PRINCIPAL}, request.questions, leading",
        (f"{OF_LISTS}::test_a_question_finds_only_what_the_key_may_see",),
    ),
    Guard(
        "a dry run is classified as the key's",
        ROUTING_API,
        "classifier.find(catalog, request.auth.viewer, turns)",
        "classifier.find(catalog, type(request.auth.viewer)(request.auth.tenant), turns)",
        (f"{OF_LISTS}::test_a_dry_run_ranks_only_what_the_key_may_see",),
    ),
    Guard(
        "an index with what is kept from the key since answers nobody",
        VIEWS,
        "if view is not None and _may_still_be_seen(view.index, catalog, viewer):",
        "if view is not None:",
        (f"{OF_VIEWS}::test_an_index_with_a_removed_document_answers_nobody",),
    ),
    Guard(
        "indexes are not kept without limit",
        VIEWS,
        "if len(self._views) > VIEWERS_KEPT:",
        "if len(self._views) > VIEWERS_KEPT * 100:",
        (f"{OF_VIEWS}::test_the_indexes_that_were_used_last_are_kept",),
    ),
    Guard(
        "a job of what is kept from the key is not found",
        JOBS_API,
        "    visible = shelf.catalog.visible_to(viewer)\n    for document in visible:",
        f"    visible = shelf.catalog.visible_to({_ALL})\n    for document in visible:",
        (f"{OF_LISTS}::test_the_jobs_of_what_is_kept_from_the_key_are_not_there",),
    ),
    Guard(
        "a text is put only where the key sees",
        DOCUMENTS_API,
        "if not _may_put(principal.viewer, document_id, before):",
        "if document_id is None:",
        (f"{OF_LISTS}::test_a_text_may_be_put_only_where_the_key_sees",),
    ),
    Guard(
        "a tag opens nothing new",
        DOCUMENTS_API,
        "(before is not None and viewer.permits(before))",
        "(before is None or viewer.permits(before))",
        (f"{OF_LISTS}::test_a_text_may_be_put_only_where_the_key_sees",),
    ),
    Guard(
        "routing is fitted by who sees all",
        ROUTING_API,
        "if principal.viewer.is_narrow:",
        "if principal.viewer is None:",
        (f"{OF_LISTS}::test_routing_is_not_fitted_by_a_key_that_sees_a_part",),
    ),
)
