"""`/v1/documents` and `/v1/jobs`: a tenant's documents over HTTP, and how far their readings are.

What comes and goes as JSON is `gateway/api/documents_views.py`'s.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Controller, Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter

from backends.extract import NotText, text_of
from gateway.api.documents_views import (
    NO_NUL,
    Changes,
    Deleted,
    DocumentList,
    DocumentView,
    DocumentViews,
    NewDocument,
)
from gateway.shelf.documents import Shelf
from gateway.shelf.volumes import Volumes
from gateway.tenants.authenticator import Principal
from gateway.tenants.quotas import Quotas
from router.descriptors import guess_title
from router.documents import SHARED, Descriptor, Document, DocumentId, Owner, check_id, content_digest, slug
from router.errors import Conflict, InvalidRequest
from router.prompts import clean_text

T = TypeVar("T")


class DocumentsController(Controller):
    path = "/v1/documents"
    tags = ("documents",)

    @get()
    async def list_documents(
        self, shelf: NamedDependency[Shelf], views: NamedDependency[DocumentViews], request: Request[Any, Principal, Any]
    ) -> DocumentList:
        """Every document that this key's tenant may ask."""
        return DocumentList([views.of(document, request.auth.tenant) for document in shelf.catalog.visible_to(request.auth.tenant)])

    @get("/{document_id:str}")
    async def show_document(
        self,
        document_id: FromPath[str],
        shelf: NamedDependency[Shelf],
        views: NamedDependency[DocumentViews],
        request: Request[Any, Principal, Any],
    ) -> DocumentView:
        return views.of(shelf.catalog.find(request.auth.tenant, document_id), request.auth.tenant)

    @post()
    async def add_document(
        self,
        shelf: NamedDependency[Shelf],
        volumes: NamedDependency[Volumes],
        views: NamedDependency[DocumentViews],
        quotas: NamedDependency[Quotas],
        request: Request[Any, Principal, Any],
        document_id: Annotated[str | None, QueryParameter(name="id")] = None,
        title: Annotated[str | None, QueryParameter(max_length=300, pattern=NO_NUL)] = None,
        shared: FromQuery[bool] = False,
    ) -> Response[DocumentView]:
        """Add a document or replace its content; it is read in the background (202), or is there already (200).

        The body is JSON (`NewDocument`), or the text itself as text/plain or text/markdown with `id`, `title` and
        `shared` in the query.
        """
        body = await request.body()
        kind = request.content_type[0]
        if kind == "application/json":
            new = decode(body, NewDocument)
        elif kind == "multipart/form-data":
            raise NotText("Send the text itself instead of a form, e.g. with: curl --data-binary @FILE", param="text")
        else:
            new = NewDocument(text_of(body), document_id, title, shared=shared)
        return await _put(shelf, volumes, views, quotas, request.auth, new)

    @patch("/{document_id:str}")
    async def change_document(
        self,
        document_id: FromPath[str],
        shelf: NamedDependency[Shelf],
        views: NamedDependency[DocumentViews],
        request: Request[Any, Principal, Any],
    ) -> DocumentView:
        """Change title, summary, tags or questions, and how long the document's KV is kept."""
        document = _own(shelf, request.auth, document_id)
        changes = decode(await request.body(), Changes)
        changed = await shelf.amend(document.owner, document.id, retention=changes.retention(), **changes.descriptor())
        return views.of(changed, request.auth.tenant)

    @delete("/{document_id:str}", status_code=200)
    async def remove_document(
        self, document_id: FromPath[str], shelf: NamedDependency[Shelf], request: Request[Any, Principal, Any]
    ) -> Deleted:
        """Remove the document and its KV from every tier. Questions under way are still answered."""
        document = _own(shelf, request.auth, document_id)
        await shelf.remove(document.owner, document.id)
        return Deleted(document.id)


async def _put(
    shelf: Shelf, volumes: Volumes, views: DocumentViews, quotas: Quotas, principal: Principal, new: NewDocument
) -> Response[DocumentView]:
    owner = SHARED if new.shared else Owner(principal.tenant)
    principal.need("share" if new.shared else "documents")
    text = clean_text(new.text)
    title = new.title or guess_title(text, new.id or "Untitled")
    # A title without a Latin letter gives no id; the content then does, as one id for all such titles would mix them up.
    made_id = slug(title) or f"document-{content_digest(text)[:12]}"
    document_id = DocumentId(check_id(new.id) if new.id is not None else made_id)
    before = shelf.catalog.get(owner, document_id)
    if before is not None and before.source == "catalog":
        raise _from_catalog(before)
    descriptor = Descriptor(title, new.summary, new.tags, new.questions, new.aliases)
    with quotas.adding(shelf.catalog, owner, document_id):
        document = await volumes.put(owner, document_id, text, descriptor, retention=new.retention())
    view = views.of(document, principal.tenant)
    return Response(view, status_code=202 if view.job is not None else 200)


def _own(shelf: Shelf, principal: Principal, document_id: str) -> Document:
    """The document, if this key may change it. Raises NotFound, Forbidden or Conflict."""
    document = shelf.catalog.find(principal.tenant, document_id)
    principal.need("share" if document.owner == SHARED else "documents")
    if document.source == "catalog":
        raise _from_catalog(document)
    return document


def _from_catalog(document: Document) -> Conflict:
    return Conflict(f"Document {document.id!r} is declared in the operator's catalog file; change it there.", param="document")


def decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body can't be used: {error}") from error
