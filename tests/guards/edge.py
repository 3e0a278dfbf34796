"""The guards of the edge: connections, hosts, and what answers carry."""

from __future__ import annotations

from tests.guards import Guard

CONNECTION = "gateway/edge/connection.py"
DOOR = "gateway/edge/door.py"
SLOW = "tests/gateway/edge/test_slow_clients.py"
FRAMING = "tests/gateway/edge/test_framing.py"
HOSTS = "tests/gateway/edge/test_hosts.py"
ANSWERS = "tests/gateway/edge/test_answers.py"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "headers and bodies have a time limit",
        CONNECTION,
        "            self._waiting = self.loop.call_later(self._limit_s, self._too_slow)\n\n    @property",
        "            pass\n\n    @property",
        (
            f"{SLOW}::test_headers_that_do_not_arrive_are_408_and_the_connection_closes",
            f"{SLOW}::test_a_body_that_does_not_arrive_is_408_and_the_application_is_not_left_waiting",
        ),
    ),
    Guard(
        "a byte now and then gains no time",
        CONNECTION,
        "        if (self._part, self._message) != self._waited_for:\n",
        "        if True:\n",
        (f"{SLOW}::test_a_byte_now_and_then_gains_no_time",),
    ),
    Guard(
        "blank lines keep no connection open",
        CONNECTION,
        "            self._part = Part.HEAD\n            self._head_bytes += len(data)\n",
        "            self._head_bytes += len(data)\n",
        (f"{SLOW}::test_blank_lines_keep_no_connection_open",),
    ),
    Guard(
        "connections have a limit",
        CONNECTION,
        "        if len(self.connections) > self._limits.max_connections:\n",
        "        if False:\n",
        (f"{SLOW}::test_beyond_the_limit_a_connection_is_503_at_once_and_there_is_room_again",),
    ),
    Guard(
        "a client that does not read is let go",
        CONNECTION,
        "        super().pause_writing()\n        self._stall()\n",
        "        super().pause_writing()\n",
        (
            f"{SLOW}::test_a_client_that_stops_reading_is_let_go_with_little_buffered",
            f"{SLOW}::test_a_client_that_stops_reading_its_answer_stops_the_engine",
        ),
    ),
    Guard(
        "little is buffered for a client that does not read",
        DOOR,
        '            elif len(message.get("body", b"")) > PIECE_BYTES:\n',
        "            elif False:\n",
        (f"{SLOW}::test_a_client_that_stops_reading_is_let_go_with_little_buffered",),
    ),
    Guard(
        "what is left of an answer keeps no connection open",
        CONNECTION,
        "        super().on_response_complete()\n        self._see_it_close()\n",
        "        super().on_response_complete()\n",
        (f"{SLOW}::test_what_is_left_of_an_answer_keeps_no_connection_open",),
    ),
    Guard(
        "a body that says it is too long is refused unread",
        CONNECTION,
        "                if not value.isdigit() or len(value) > 18 or int(value) > self._limits.max_body_bytes:\n",
        "                if not value.isdigit():\n",
        (f"{FRAMING}::test_a_body_that_says_it_is_too_long_is_refused_unread_on_every_path",),
    ),
    Guard(
        "a body that turns out too long is refused while it comes",
        CONNECTION,
        "        if self._body_bytes > self._limits.max_body_bytes:\n",
        "        if False:\n",
        (f"{FRAMING}::test_a_body_that_turns_out_too_long_is_refused_while_it_comes",),
    ),
    Guard(
        "what comes beside a body's content is limited",
        CONNECTION,
        "        if self._part is Part.BODY and self._framing_bytes > HEAD_BYTES + 8 * self._body_bytes:\n",
        "        if False:\n",
        (f"{FRAMING}::test_what_comes_beside_a_bodys_content_is_limited_too",),
    ),
    Guard(
        "headers that do not end are not kept",
        CONNECTION,
        "        if self._part is Part.HEAD and self._head_bytes > HEAD_BYTES:\n",
        "        if False:\n",
        (f"{FRAMING}::test_long_urls_and_headers_are_refused", f"{FRAMING}::test_a_refusal_is_read_also_by_who_is_still_sending"),
    ),
    Guard(
        "long headers are refused",
        CONNECTION,
        "        if self._head_bytes > HEAD_BYTES and _size(self.url, self.headers) > HEAD_BYTES:\n",
        "        if False:\n",
        (f"{FRAMING}::test_long_urls_and_headers_are_refused",),
    ),
    Guard(
        "many headers are refused",
        CONNECTION,
        "        if len(self.headers) == HEADERS:\n",
        "        if False:\n",
        (f"{FRAMING}::test_long_urls_and_headers_are_refused",),
    ),
    Guard(
        "long URLs are refused",
        CONNECTION,
        "        if len(self.url) > URL_BYTES:\n",
        "        if False:\n",
        (f"{FRAMING}::test_long_urls_and_headers_are_refused",),
    ),
    Guard(
        "an encoding that is not exactly chunked is refused",
        CONNECTION,
        '                if value.lower() != b"chunked" or self.parser.get_http_version() != "1.1":\n',
        "                if False:\n",
        (f"{FRAMING}::test_what_is_no_clear_request_is_400_once_and_closes",),
    ),
    Guard(
        "only HTTP/1.x is read",
        CONNECTION,
        '        if self.parser.get_http_version() not in ("1.0", "1.1"):\n',
        "        if False:\n",
        (f"{FRAMING}::test_what_is_no_clear_request_is_400_once_and_closes",),
    ),
    Guard(
        "a request names a path",
        CONNECTION,
        '        if not self.url.startswith(b"/"):\n',
        "        if False:\n",
        (f"{FRAMING}::test_what_is_no_clear_request_is_400_once_and_closes",),
    ),
    Guard(
        "a request has one Host",
        CONNECTION,
        '        if hosts != 1 and (hosts or self.parser.get_http_version() == "1.1"):\n',
        "        if False:\n",
        (f"{FRAMING}::test_what_is_no_clear_request_is_400_once_and_closes",),
    ),
    Guard(
        "a trailer is no header",
        CONNECTION,
        "        if self._part is Part.BODY:  # a trailer",
        "        if False:  # a trailer",
        (f"{FRAMING}::test_a_trailer_is_no_header",),
    ),
    Guard(
        "few requests wait on one connection",
        CONNECTION,
        "        if len(self.pipeline) >= PIPELINED:\n",
        "        if False:\n",
        (f"{FRAMING}::test_more_requests_at_once_than_wait_are_not_kept",),
    ),
    Guard(
        "what follows a refused request is not read",
        CONNECTION,
        "        if self._deaf or self.parser is None:\n",
        "        if self.parser is None:\n",
        (f"{SLOW}::test_what_follows_a_refusal_is_not_read",),
    ),
    Guard(
        "a refusal takes nothing from an answer under way",
        CONNECTION,
        "            self.cycle.keep_alive = False\n            return\n        if answering and (",
        "            pass\n        if answering and (",
        (f"{FRAMING}::test_what_is_malformed_behind_a_request_takes_nothing_from_its_answer",),
    ),
    Guard(
        "a foreign Host is refused",
        DOOR,
        '    if host is None or limits.hosts.admits(host.decode("latin-1")):\n',
        "    if True:\n",
        (f"{HOSTS}::test_a_foreign_host_is_421_on_both_listeners_and_told_which_setting_admits_it",),
    ),
    Guard(
        "what a proxy would say of the client is not believed",
        "gateway/server.py",
        "                proxy_headers=False,\n",
        '                proxy_headers=True,\n                forwarded_allow_ips="*",\n',
        (f"{HOSTS}::test_what_a_proxy_would_say_of_the_client_is_not_believed",),
    ),
    Guard(
        "every answer carries the security headers",
        DOOR,
        "    return [*fields, *(field for field in HEADERS if field[0] not in names)]\n",
        "    return fields\n",
        (f"{ANSWERS}::test_every_answer_of_every_route_carries_the_security_headers",),
    ),
    Guard(
        "no page runs scripts of somebody else's",
        "gateway/api/description.py",
        ", render_plugins=[_Described()],",
        ",",
        (f"{ANSWERS}::test_no_page_is_served",),
    ),
    Guard(
        "no server header",
        "gateway/server.py",
        "                server_header=False,\n",
        "                server_header=True,\n",
        (f"{ANSWERS}::test_every_answer_of_every_route_carries_the_security_headers",),
    ),
    Guard(
        "no other origin may ask unless it is configured",
        "gateway/app.py",
        "CORSConfig(list(server.cors_origins), expose_headers=EXPOSED) if server.cors_origins else None",
        'CORSConfig(list(server.cors_origins) or ["*"], expose_headers=EXPOSED)',
        (f"{ANSWERS}::test_without_being_told_no_other_origin_may_ask",),
    ),
)
