"""What a key opens: each route needs a key, and the scope that it is for."""

from __future__ import annotations

from tests.guards import Guard

DOORS, KEYS_API, TIERS_API = "gateway/tenants/doors.py", "gateway/api/keys_api.py", "gateway/api/tiers_api.py"
DOCUMENTS_API, JOBS_API, ROUTING_API = "gateway/api/documents_api.py", "gateway/api/jobs_api.py", "gateway/api/routing_api.py"

ANY = '"ask", "read", "write", "share", "admin"'

OF_SCOPES = "tests/gateway/tenants/test_scopes.py"
EACH_ROUTE = f"{OF_SCOPES}::test_no_route_opens_without_its_scope_and_each_of_its_scopes_opens_it"
EACH_SCOPE = f"{OF_SCOPES}::test_a_scope_opens_what_it_names_and_no_more"
NOTHING_TOLD = f"{OF_SCOPES}::test_a_missing_scope_tells_nothing_of_which_documents_there_are"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "a route needs a key",
        DOORS,
        "super().__init__(app)\n        self._authenticator = authenticator",
        'super().__init__(app, exclude="/v1/models")\n        self._authenticator = authenticator',
        (f"{OF_SCOPES}::test_what_is_public_is_open_without_a_key_and_nothing_else_is",),
    ),
    Guard(
        "a route needs its scope",
        DOORS,
        '        principal.need(*connection.scope["route_handler"].opt.get(_NEEDS, ()))\n',
        "",
        (EACH_ROUTE, EACH_SCOPE),
    ),
    Guard(
        "a route that names no scope is shut",
        DOORS,
        "opt.get(_NEEDS, ())",
        f"opt.get(_NEEDS, ({ANY}))",
        (f"{OF_SCOPES}::test_a_route_that_names_no_scope_is_open_to_nobody",),
    ),
    Guard(
        "questions need `ask`",
        "gateway/app.py",
        'copy_scope=False, opt=needs("ask")',
        f"copy_scope=False, opt=needs({ANY})",
        (EACH_ROUTE, EACH_SCOPE),
    ),
    Guard(
        "the model needs `ask`",
        "gateway/api/system_api.py",
        'opt=needs("ask")',
        f"opt=needs({ANY})",
        (EACH_ROUTE,),
    ),
    Guard(
        "a dry run needs `ask`",
        ROUTING_API,
        'opt=needs("ask")',
        f"opt=needs({ANY})",
        (EACH_ROUTE, EACH_SCOPE),
    ),
    Guard(
        "fitting needs `write`",
        ROUTING_API,
        '@post("/v1/route/fit", status_code=200, tags=["routing"], opt=needs("write")',
        f'@post("/v1/route/fit", status_code=200, tags=["routing"], opt=needs({ANY})',
        (EACH_ROUTE,),
    ),
    Guard(
        "undoing a fit needs `write`",
        ROUTING_API,
        '@delete("/v1/route/fit", status_code=200, tags=["routing"], opt=needs("write"))',
        f'@delete("/v1/route/fit", status_code=200, tags=["routing"], opt=needs({ANY}))',
        (EACH_ROUTE,),
    ),
    Guard(
        "the list needs `read`",
        DOCUMENTS_API,
        '@get(opt=needs("read"))',
        f"@get(opt=needs({ANY}))",
        (EACH_ROUTE, EACH_SCOPE),
    ),
    Guard(
        "a document's view needs `read`",
        DOCUMENTS_API,
        '@get("/{document_id:str}", opt=needs("read"))',
        f'@get("/{{document_id:str}}", opt=needs({ANY}))',
        (EACH_ROUTE, EACH_SCOPE),
    ),
    Guard("jobs need `read`", JOBS_API, 'opt = needs("read")', f"opt = needs({ANY})", (EACH_ROUTE, EACH_SCOPE)),
    Guard(
        "adding needs `write` or `share`",
        DOCUMENTS_API,
        '@post(opt=needs("write", "share")',
        f"@post(opt=needs({ANY})",
        (f"{OF_SCOPES}::test_what_a_key_may_not_do_is_refused_before_its_body_is_looked_at",),
    ),
    Guard(
        "changing needs `write` or `share`",
        DOCUMENTS_API,
        '@patch("/{document_id:str}", opt=needs("write", "share")',
        f'@patch("/{{document_id:str}}", opt=needs({ANY})',
        (EACH_ROUTE, NOTHING_TOLD),
    ),
    Guard(
        "removing needs `write` or `share`",
        DOCUMENTS_API,
        '@delete("/{document_id:str}", status_code=200, opt=needs("write", "share"))',
        f'@delete("/{{document_id:str}}", status_code=200, opt=needs({ANY}))',
        (EACH_ROUTE, NOTHING_TOLD),
    ),
    Guard(
        "moving needs `write` or `share`",
        TIERS_API,
        'opt = needs("write", "share")',
        f"opt = needs({ANY})",
        (EACH_ROUTE,),
    ),
    Guard(
        "adding for all needs `share`, for the tenant `write`",
        DOCUMENTS_API,
        '    principal.need("share" if new.shared else "write")\n',
        "",
        (EACH_SCOPE,),
    ),
    Guard(
        "changing what is everybody's needs `share`, the tenant's own `write`",
        DOCUMENTS_API,
        '    principal.need("share" if document.owner == SHARED else "write")\n',
        "",
        (EACH_SCOPE,),
    ),
    Guard(
        "moving what is everybody's needs `share`, the tenant's own `write`",
        TIERS_API,
        '    principal.need("share" if document.owner == SHARED else "write")\n',
        "",
        (EACH_SCOPE,),
    ),
    Guard("/admin/keys needs `admin`", KEYS_API, '    opt = needs("admin")\n', f"    opt = needs({ANY})\n", (EACH_ROUTE,)),
    Guard(
        "/admin/audit needs `admin`",
        KEYS_API,
        '@get("/admin/audit", tags=["audit"], opt=needs("admin"))',
        f'@get("/admin/audit", tags=["audit"], opt=needs({ANY}))',
        (EACH_ROUTE,),
    ),
    Guard(
        "the demo's key can't administer",
        "gateway/cli/serve.py",
        'DEMO_SCOPES = ("ask", "read", "write", "share")',
        f"DEMO_SCOPES = ({ANY})",
        ("tests/gateway/cli/test_serve.py::test_the_key_can_not_administer_and_its_making_is_in_the_audit_log",),
    ),
)
