"""Five thousand ids that want to be paths, through every route that takes an id and through catalog files: none becomes one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from router.documents import ID_PATTERN

ROOT = Path(__file__).parents[2]
IDS = 5000


def test_no_id_opens_a_file_outside_the_data_folder(tmp_path: Path) -> None:
    folder = tmp_path / "gateway"
    folder.mkdir()
    result = subprocess.run(
        [sys.executable, "-m", "tests.gateway.opened", str(folder), str(IDS)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout)
    opened = {name.strip("b'\"") for _, name in found["opened"]}
    assert str(tmp_path / "outside") in opened, "the hook records nothing"
    # The gateway's own folder; the interpreter's and kvshelf's source, which is read for the traceback of an error.
    own = [folder, ROOT, Path(sys.prefix), Path(sys.base_prefix), Path(sys.prefix).resolve()]
    outside = [name for name in opened if not any(Path(name).is_relative_to(one) for one in own)]
    assert outside == [str(tmp_path / "outside")]
    assert {event for event, _ in found["opened"]} <= {"open", "sqlite3.connect"}, "nothing is listed, renamed, removed or started"
    assert not {status for status in found["statuses"] if int(status) >= 500}
    assert sum(found["statuses"].values()) > 3 * IDS
    assert [name for name in found["taken"] if not ID_PATTERN.fullmatch(name)] == []
