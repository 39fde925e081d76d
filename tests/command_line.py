"""`tcm-bench` in this process, as its users see it: what it prints, or the one line in which it says what is wrong."""

import json

from typer.testing import CliRunner

from tcm_bench.cli.app import app


def tcm_bench(*words):
    """The result of a command; an error that no user can cause is raised."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def numbers(*words):
    """What a command prints with `--json`."""
    done = tcm_bench(*words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def sentence(*words):
    """The one line on stderr of a command that could not be done."""
    done = tcm_bench(*words)
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line
