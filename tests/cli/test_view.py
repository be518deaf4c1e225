"""`dsmoe-eval view`: where it serves, and how it ends."""

import signal
import subprocess
import sys
import urllib.request

from click.testing import CliRunner

from dsmoe_eval.cli import main


def test_a_folder_without_reports_is_refused(tmp_path):
    done = CliRunner().invoke(main, ["view", str(tmp_path)])
    assert done.exit_code == 3
    assert "holds no report or leaderboard" in done.stderr


def test_it_serves_until_it_is_interrupted(tmp_path):
    (tmp_path / "index.html").write_text("<html><head><title>mine</title></head></html>")
    command = [sys.executable, "-m", "dsmoe_eval", "view", str(tmp_path), "--port", "0"]
    # What a shell puts in the background ignores SIGINT, and so do its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    signal.signal(signal.SIGINT, before)
    try:
        url = process.stdout.readline().split()[-1]
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url) as answer:  # noqa: S310 - it is ours
            assert "mine" in answer.read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
