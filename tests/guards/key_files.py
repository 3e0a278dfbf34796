"""Secrets at the start: weak, lost or exposed ones are refused, with the way to mend it."""

from __future__ import annotations

from tests.guards import Guard

CONFIG = "gateway/config.py"

OF_CONFIG, OF_SERVE = "tests/gateway/test_config.py", "tests/gateway/cli/test_serve.py"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "a weak server secret is refused",
        CONFIG,
        "if len(secret) < MIN_SECRET_BYTES or len(set(secret)) < 8:",
        "if not secret:",
        (f"{OF_CONFIG}::test_a_weak_secret_is_refused_wherever_it_comes_from",),
    ),
    Guard(
        "a server secret that others can read is refused",
        CONFIG,
        'if problems := exposed(path, "the server\'s secret"):',
        "if problems := []:",
        (f"{OF_CONFIG}::test_a_secret_that_others_can_reach_is_refused",),
    ),
    Guard(
        "a server secret that is gone is not made anew",
        CONFIG,
        "        if problem := _lost_secret(config):\n            raise ConfigError([problem])\n",
        "",
        (f"{OF_CONFIG}::test_a_lost_secret_is_refused_rather_than_made_anew",),
    ),
    Guard(
        "the server's secret is made for its owner alone",
        CONFIG,
        "os.O_TRUNC, 0o600)",
        "os.O_TRUNC, 0o644)",
        (f"{OF_CONFIG}::test_the_secret_is_made_once_and_for_its_owner_alone",),
    ),
    Guard(
        "a disk tier's key that others can read is refused",
        "gateway/parts.py",
        "    if problems := key_file_problems(config):\n        raise ConfigError(problems)\n",
        "",
        ("tests/gateway/test_parts.py::test_no_gateway_starts_with_a_disk_tiers_key_that_others_can_read",),
    ),
    Guard(
        "an API key's file that others can read is refused",
        "gateway/cli/serve.py",
        'if exposed(path, "it"):',
        "if path is None:",
        (f"{OF_SERVE}::test_a_key_that_works_in_a_file_that_others_can_reach_is_refused_with_the_way_to_mend_it",),
    ),
    Guard(
        "an API key's file is made for its owner alone",
        "gateway/cli/key_file.py",
        "os.open(name, flags, 0o600)",
        "os.open(name, flags, 0o644)",
        (f"{OF_SERVE}::test_a_key_is_made_once_and_kept",),
    ),
)
