"""The guards of what must stay within, in logs, spans and errors; and of what the gateway does not start with."""

from __future__ import annotations

from tests.guards import Guard

DOOR = "gateway/edge/door.py"
START_UP = "tests/gateway/test_start_up.py"
CANARIES = "tests/gateway/test_canaries.py"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "a log has no words of what was raised",
        "gateway/logs.py",
        "        processors=[*shared, _without_words, renderer],",
        "        processors=[*shared, structlog.processors.format_exc_info, renderer],",
        (CANARIES,),
    ),
    Guard(
        "a bug in the midst of an answer is not uvicorn's to log",
        DOOR,
        "        except Exception as error:\n",
        "        except ZeroDivisionError as error:\n",
        (CANARIES,),
    ),
    Guard(
        "a span has no words of what was raised",
        "observability/telemetry.py",
        "record_exception=False, set_status_on_exception=False",
        "record_exception=True, set_status_on_exception=True",
        (CANARIES,),
    ),
    Guard(
        "the engine's words stay in its own log",
        "backends/vllm.py",
        "return self.type if self.type is not None and _KIND.fullmatch(self.type) else",
        "return self.type if self.type is not None else",
        ("tests/backends/test_vllm.py",),
    ),
    Guard(
        "bytes that can't be read are not quoted",
        "backends/vllm.py",
        "    return type(error).__name__ if quotes else str(error) or type(error).__name__",
        "    return str(error) or type(error).__name__",
        ("tests/backends/test_vllm.py::test_bytes_that_can_not_be_read_are_not_shown",),
    ),
    Guard(
        "what a database driver shows of a value stays within",
        "backends/store/database.py",
        '    words = re.sub(r"(?s)(invalid input for query argument \\$\\d+).*|\\s*DETAIL:.*", r"\\1", words)\n',
        "",
        ("tests/backends/store/test_failures.py::test_what_a_driver_shows_of_a_value_is_not_repeated",),
    ),
    Guard(
        "an embedding model's words stay within",
        "gateway/shelf/classifier.py",
        "words = str(error) if isinstance(error, KvshelfError) else",
        "words = str(error) if True else",
        (CANARIES,),
    ),
    Guard(
        "operators are served beyond loopback only where that was told",
        "gateway/sections.py",
        "        if not (self.allow_beyond_loopback or is_loopback(self.host)):\n",
        "        if False:\n",
        (f"{START_UP}::test_operators_are_served_beyond_loopback_only_where_that_was_told",),
    ),
    Guard(
        "engines' events are heard beyond loopback only where that was told",
        "gateway/sections.py",
        "            if not (local or self.allow_beyond_loopback):\n",
        "            if False:\n",
        (f"{START_UP}::test_engines_events_are_heard_beyond_loopback_only_where_that_was_told",),
    ),
    Guard(
        "the local engine can not be moved off loopback by a flag",
        "backends/settings.py",
        '            if len(name) > len("--h") and "--host".startswith(name):\n',
        "            if False:\n",
        (f"{START_UP}::test_the_local_engine_can_not_be_moved_off_loopback_by_a_flag",),
    ),
    Guard(
        "a key file's mode is looked at",
        "gateway/config.py",
        " if mode & 0o077 else []\n",
        " if mode & 0o000 else []\n",
        (START_UP, "tests/gateway/test_config.py::test_a_secret_that_others_can_reach_is_refused"),
    ),
    Guard(
        "every route but the public ones needs a key",
        "gateway/tenants/doors.py",
        '        principal = await self._authenticator.recognise(connection.headers.get("authorization"))\n',
        "        from gateway.tenants.keys import SCOPES\n"
        "        from router.viewers import Viewer\n"
        '        principal = Principal(Viewer("tenant-a"), "", SCOPES, "")\n',
        ("tests/gateway/test_description.py::test_an_application_is_as_it_says",),
    ),
    Guard(
        "a YAML file's values are plain ones, or problems",
        "gateway/strict_yaml.py",
        "        except (ValueError, TypeError, AttributeError, LookupError) as error:\n",
        "        except ZeroDivisionError as error:\n",
        ("tests/gateway/test_config_fuzz.py::test_any_bytes_are_a_configuration_or_problems",),
    ),
)
